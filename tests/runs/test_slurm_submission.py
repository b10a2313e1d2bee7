"""What is sent to SLURM, without a SLURM: settings, arrays, dependencies, and what is not sent."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest

from sextant.cli import main
from sextant.errors import UserError
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.runs.launch import slurm
from sextant.runs.launch.cluster import Cluster, read_cluster
from sextant.runs.launch.cost import Estimator
from sextant.runs.launch.submissions import read_submissions, record_submissions
from sextant.runs.plan import RunPlan
from sextant.verbs.submitting import arrays, sort_out
from tests.toy import ROOT, line_spec


@pytest.fixture
def family():
    parent = line_spec()
    child = line_spec(seed=1, parents={"start": parent})
    grandchild = line_spec(seed=2, parents={"start": child})
    return parent, child, grandchild


def test_every_cluster_file_is_valid():
    names = Composer(ROOT / "conf").options("cluster")
    assert "default" in names
    for name in names:
        assert read_cluster(ROOT / "conf", name).gpus == 1


def test_a_site_keeps_its_own_clusters_out_of_git(tmp_path):
    for path, text in {
        "cluster/default.yaml": "partition: null\nminutes: 120\n",
        "local/default.yaml": "# @package _global_\ncluster: {partition: cpu, account: lab}\n",
        "local/cluster/nights.yaml": "minutes: 600\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    default = read_cluster(tmp_path, "default")
    assert (default.partition, default.account, default.minutes) == ("cpu", "lab", 120)
    assert read_cluster(tmp_path, "nights").minutes == 600
    with pytest.raises(UserError, match="unknown cluster 'night'; did you mean 'nights'"):
        read_cluster(tmp_path, "night")


def test_a_mistake_in_a_sites_own_values_names_their_file(tmp_path):
    (tmp_path / "local").mkdir()
    shutil.copytree(ROOT / "conf" / "cluster", tmp_path / "cluster")

    def refused(cluster: str, name: str = "default") -> str:
        own = tmp_path / "local" / "default.yaml"
        own.write_text(f"# @package _global_\ncluster: {cluster}\n")
        with pytest.raises(UserError) as problem:
            read_cluster(tmp_path, name)
        return str(problem.value)

    assert refused("{slurm_partition: gpu, gpus: -1, setup: module load cuda}").splitlines() == [
        "conf/local/default.yaml: gpus must be at least 0, got -1",
        "conf/local/default.yaml: setup must be a list, got 'module load cuda'",
        "conf/local/default.yaml: slurm_partition is not a field of the file; allowed: account, "
        "constraint, cpus, gpus, memory_gb, minutes, notice_seconds, options, partition, qos, "
        "runs_at_once, setup; nearest match: partition",
    ]
    assert refused("{minutes: 2h}", "gpu_node") == (
        "conf/local/default.yaml: minutes must be a whole number, got '2h'"
    )
    assert "conf/local/default.yaml: cluster must be a mapping" in refused("gpu")
    (tmp_path / "cluster" / "default.yaml").write_text("minutes: 1h\n")
    assert refused("{partition: gpu}").startswith("conf/cluster/default.yaml: minutes must be")


def test_the_example_of_a_sites_own_values_in_the_page_is_read(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "REPRODUCE.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "conf" / "cluster", tmp_path / "cluster")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text(block)
    found = read_cluster(tmp_path, "default")
    assert (found.partition, found.account) == ("gpu", "lab")


def test_generations_put_children_after_parents(family):
    parent, child, grandchild = family
    other = line_spec(seed=3)
    assert slurm.generations([grandchild, parent, child, other]) == [[1, 3], [2], [0]]


def test_runs_share_an_array_when_they_ask_and_wait_for_the_same(context):
    one, other = line_spec(), line_spec(seed=1)
    long, gpu = line_spec(seed=2, time_limit=3000), replace(line_spec(seed=3), needs_gpu=True)
    children = [line_spec(seed=seed, parents={"start": one}) for seed in (4, 5)]
    stranger = line_spec(seed=6, parents={"start": other})
    specs = [one, other, long, gpu, *children, stranger]
    jobs = {one.run_id: "7_0", other.run_id: "7_1"}
    found = slurm.groups(specs, range(len(specs)), Cluster(), jobs, context)
    assert [(r.minutes, r.needs_gpu, parents, runs) for r, parents, runs in found] == [
        (31, False, (), [0, 1]),
        (80, False, (), [2]),
        (31, True, (), [3]),
        (31, False, ("7_0",), [4, 5]),
        (31, False, ("7_1",), [6]),
    ]


def test_an_array_stays_below_what_slurm_takes(context):
    specs = [line_spec(seed=seed) for seed in range(2)] * 1200
    found = slurm.groups(specs, range(2400), Cluster(), {}, context)
    sizes = [len(runs) for _, _, runs in found]
    assert sizes == [1000, 1000, 400]


def test_parameters_ask_for_gpus_only_where_they_are_needed():
    lab = Cluster(partition="gpu", account="lab", gpus=2, setup=("a",), options={"nice": 5})
    resources = slurm.Resources(10, needs_gpu=True)
    wanted = slurm.parameters("name", resources, ["7_0", "8"], lab)
    assert (wanted["slurm_partition"], wanted["slurm_account"]) == ("gpu", "lab")
    assert wanted["gpus_per_node"] == 2
    assert wanted["slurm_setup"] == ["a"]
    assert wanted["slurm_additional_parameters"] == {
        "requeue": True, "nice": 5, "dependency": "afterok:7_0:8", "kill-on-invalid-dep": "yes"
    }  # fmt: skip
    assert "slurm_qos" not in wanted
    small = slurm.parameters("name", slurm.Resources(10, needs_gpu=False), [], lab)
    assert "gpus_per_node" not in small
    assert "dependency" not in small["slurm_additional_parameters"]


def test_a_run_over_several_processes_asks_for_all_of_them(context):
    trainer = Composer(ROOT / "conf").setting("trainer", "ddp")
    several = replace(context, trainer=trainer | {"nodes": 2, "processes_per_node": 4})
    ((resources, _, _),) = slurm.groups(
        [replace(line_spec(), needs_gpu=True)], [0], Cluster(), {}, several
    )
    wanted = slurm.parameters("name", resources, [], Cluster())
    assert several.processes == 8
    assert (wanted["nodes"], wanted["tasks_per_node"], wanted["gpus_per_node"]) == (2, 4, 4)
    assert wanted["mem_gb"] == 32


def test_a_trainer_over_two_nodes_is_what_sbatch_is_asked_for(tmp_path, monkeypatch, capsys):
    for name, line in (
        ("sbatch", 'cp "$1" "$0.script"; echo Submitted batch job 7'),
        ("squeue", ""),
        ("srun", ""),
    ):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(ROOT)
    one = ["12", "tier=smoke", "rows=mean_flow", "columns=moons"]
    assert main(["reproduce", *one, "where=slurm", "trainer=ddp_two_nodes"]) == 0
    assert "submitted 7" in capsys.readouterr().out
    script = (tmp_path / "bin" / "sbatch.script").read_text()
    asked = set(re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE))
    assert {"--nodes=2", "--ntasks-per-node=2", "--mem=16GB"} <= asked
    assert "--kill-on-bad-exit=1" in script


def test_without_sbatch_there_is_a_sentence(context, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the command sbatch"):
        slurm.launch(tmp_path / "plan.json", [line_spec()], context, Cluster(), tmp_path)


def test_each_run_is_sent_once_and_no_orphan_at_all(family):
    parent, child, grandchild = family

    def sorted_out(states, waiting, queued=()):
        names = {spec.run_id: state for spec, state in zip(family, states, strict=True)}
        found = sort_out(RunPlan(family, names, {}), waiting, dict.fromkeys(queued, "7"))
        return list(found.to_send), list(found.already), list(found.refused)

    missing = ("missing",) * 3
    assert sorted_out(missing, family) == (list(family), [], [])
    assert sorted_out(missing, family, [parent.run_id]) == ([child, grandchild], [parent], [])
    assert sorted_out(("done", "missing", "missing"), [child], []) == ([child], [], [])
    sent, _, refused = sorted_out(("failed", "missing", "missing"), [child, grandchild])
    assert sent == []
    assert refused[0].startswith(f"{child.title} starts from {parent.title}, which failed")
    assert len(refused) == 2


def test_submissions_are_remembered_by_run_and_the_last_counts(tmp_path):
    record_submissions(tmp_path, "sextant-a", tmp_path / "a", {"x": "7_0", "y": "7_1"})
    record_submissions(tmp_path, "sextant-b", tmp_path / "b", {"y": "9"})
    found = read_submissions(tmp_path)
    assert {run_id: (sent.job, sent.name) for run_id, sent in found.items()} == {
        "x": ("7_0", "sextant-a"),
        "y": ("9", "sextant-b"),
    }
    assert found["y"].log == tmp_path / "b" / "9_0_log.err"


def test_job_ids_are_said_as_squeue_says_them():
    assert arrays(["7_0", "7_1", "7_2", "7_5", "9"]) == ["7_[0-2,5]", "9"]


def timed(spec, seconds, tier="smoke", device="cpu"):
    return {
        "run_id": spec.run_id, "task": spec.task, "method": spec.method, "tier": tier,
        "status": "done", "seconds": seconds, "spec": spec.settings,
        "provenance": {"device": device},
    }  # fmt: skip


def test_the_cost_is_seconds_a_step_times_steps():
    records = [timed(line_spec(steps=10), seconds) for seconds in (10.0, 20.0, 90.0)]
    estimator = Estimator(records)
    wanted = [line_spec(steps=30), line_spec(steps=60, seed=1)]
    assert estimator.cost(wanted).seconds == 2.0 * 90
    assert str(estimator.cost(wanted)) == "about 3 min of core time"


def test_the_cost_says_what_it_rests_on():
    other_tier = Estimator([timed(line_spec(steps=10), 10.0, "small")])
    assert str(other_tier.cost([line_spec(steps=30)])) == (
        "about 30 s of core time (1 judged by another method or tier of their task)"
    )
    stranger = replace(line_spec(steps=30), task="toy/curve", needs_gpu=True)
    assert str(other_tier.cost([line_spec(steps=30), stranger])).endswith(
        "of their task, without 1 whose like was never timed)"
    )
    assert str(Estimator([]).cost([stranger])) == "no run like these was timed yet"


def test_gpu_time_that_was_judged_by_a_cpu_says_so_until_a_gpu_was_timed():
    wanted = replace(line_spec(steps=30), needs_gpu=True)
    by_cpu = timed(line_spec(steps=10), 200.0)
    assert str(Estimator([by_cpu]).cost([wanted])) == (
        "about 10 min of GPU time (1 judged by CPU runs)"
    )
    by_gpu = timed(line_spec(steps=10), 10.0, device="gpu")
    assert str(Estimator([by_cpu, by_gpu]).cost([wanted])) == "about 30 s of GPU time"


def test_a_failed_run_teaches_no_cost():
    record = json.loads(json.dumps(timed(line_spec(), 10.0))) | {"status": "failed"}
    assert Estimator([record]).expected(line_spec()) is None


def test_retry_failed_plans_failed_and_lost_runs_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    specs = [
        Composer(ROOT / "conf").spec(
            "generation/eight_gaussians_to_moons", f"flow/{method}", "smoke", 0
        )
        for method in ("mean_flow", "flow_matching")
    ]
    record_submissions(
        tmp_path / "slurm", "sextant-a", tmp_path / "slurm/a", {specs[0].run_id: "7"}
    )
    record = {
        "run_id": specs[1].run_id, "task": specs[1].task, "method": specs[1].method,
        "tier": "smoke", "seed": 0, "status": "failed", "reason": "oom", "message": "no room",
        "scores": {}, "spec": {}, "parents": [], "provenance": {}, "seconds": 1.0,
        "peak_memory_mb": None,
    }  # fmt: skip
    ledger.append(tmp_path / "ledger", record)

    def planned(*flags):
        assert main(["plan", "12", "tier=smoke", *flags]) == 0
        return capsys.readouterr().out.splitlines()[1].split(":")[0]

    assert planned() == "would run 20"
    assert planned("--retry") == "would run 21"
    assert planned("--retry", "failed") == "would run 2"
