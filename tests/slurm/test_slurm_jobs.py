"""Runs of the toy on a real SLURM: stopped in every way, failing, in chains, asked for twice."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from sextant.errors import UserError
from sextant.runs import ledger
from sextant.runs.execute import execute
from sextant.runs.launch import queue
from sextant.runs.plan import write_plan
from tests.runs.shared_line import TRAINER, shared_spec
from tests.slurm.launched import SMALL, Launched, slurm, wait_for, weights
from tests.slurm.one_machine import CORES
from tests.toy import ROOT, line_spec

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def assert_as_undisturbed(launched: Launched, spec, tmp_path) -> None:
    elsewhere = replace(
        launched.context, runs=tmp_path / "undisturbed", ledger=tmp_path / "undisturbed ledger"
    )
    whole = execute(line_spec_without_delay(spec), elsewhere)
    ours = weights(launched.context, spec)
    theirs = torch.load(elsewhere.runs / whole["run_id"] / "student.pt")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert launched.record(spec)["scores"] == whole["scores"]
    assert len((launched.context.ledger / "toy.jsonl").read_text().splitlines()) == 1


def line_spec_without_delay(spec):
    """The same mathematics without the pauses that make a run last."""
    return line_spec(seed=spec.seed, steps=spec.settings["budget"]["steps"])


def stop_by_signal(number: str):
    def stop(launched, job):
        slurm("scancel", f"--signal={number}", job)

    return stop


def stop_by_preemption(launched, job):
    # asks for every core, so the run has to give way; SLURM warns it with SIGTERM first
    slurm("sbatch", "--partition=urgent", "--ntasks=1", "--cpus-per-task=4", "--mem=1G",
          "--output=/dev/null", "--wrap=sleep 3")  # fmt: skip


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(stop_by_signal("USR2"), id="scancel-usr2"),
        pytest.param(stop_by_signal("TERM"), id="scancel-term", marks=pytest.mark.slow),
        pytest.param(stop_by_preemption, id="preempted"),
    ],
)
def test_a_run_that_is_told_to_leave_comes_back_and_ends_as_if_undisturbed(
    cluster, context, tmp_path, stop
):
    spec = line_spec(steps=200, seconds=0.05)
    launched = Launched(tmp_path, context, [spec])
    job = launched.jobs[spec.run_id]
    launched.wait_until_it_trains(spec)
    state, note = launched.status(spec)
    assert state == "running"
    assert f"job {job} on " in note
    assert " of 200, loss " in note
    assert note.endswith(" left")
    stop(launched, job)
    wait_for(lambda: launched.status(spec)[0] == "preempted", "the run to be queued again")
    state, note = launched.status(spec)
    assert note.startswith("at step ")
    assert f" of 200; job {job} waits (" in note
    launched.wait_until_it_ended(spec)
    assert_as_undisturbed(launched, spec, tmp_path)
    launched.wait_until_nothing_is_queued()
    assert launched.status(spec)[0] == "done"


@pytest.mark.slow
def test_a_run_longer_than_its_time_goes_on_in_the_next(cluster, context, tmp_path):
    # SLURM looks at the clock twice a minute: the notice comes half a minute or so after the start.
    spec = line_spec(steps=1000, seconds=0.05, time_limit=600)
    one_minute = SMALL.model_copy(update={"minutes": 1, "notice_seconds": 5})
    launched = Launched(tmp_path, context, [spec], one_minute)
    wait_for(lambda: launched.status(spec)[0] == "preempted", "the time to be up")
    launched.wait_until_it_ended(spec, 400)
    assert_as_undisturbed(launched, spec, tmp_path)


@pytest.mark.slow
def test_a_cancelled_run_stays_cancelled_and_can_be_resumed(cluster, context, tmp_path):
    spec = line_spec(steps=200, seconds=0.05)
    launched = Launched(tmp_path, context, [spec])
    launched.wait_until_it_trains(spec)
    slurm("scancel", launched.jobs[spec.run_id])
    launched.wait_until_nothing_is_queued()
    assert launched.folder(spec).checkpoint.is_file()
    assert launched.record(spec) is None
    state, note = launched.status(spec)
    assert state == "lost"
    assert launched.jobs[spec.run_id] in note
    again = Launched(tmp_path, context, [spec])
    again.wait_until_it_ended(spec)
    assert_as_undisturbed(again, spec, tmp_path)


def test_chains_wait_for_their_own_parents_and_orphans_leave_the_queue(cluster, context, tmp_path):
    good, bad = line_spec(steps=60, seconds=0.05), line_spec(seed=1, steps=20, fails="error")
    child = line_spec(seed=2, parents={"start": good})
    grandchild = line_spec(seed=3, parents={"start": child})
    orphan = line_spec(seed=4, parents={"start": bad})
    specs = [good, bad, child, grandchild, orphan]
    launched = Launched(tmp_path, context, specs)
    assert "Dependency" in launched.status(child)[1]
    launched.wait_until_it_trains(good)
    # The parent is put back into the queue; that must not count as its success or its failure.
    slurm("scancel", "--signal=USR2", launched.jobs[good.run_id])
    launched.wait_until_it_ended(grandchild)
    launched.wait_until_nothing_is_queued()
    records = ledger.read(context.ledger)
    assert {spec.run_id for spec in (good, child, grandchild)} == {
        run_id for run_id, record in records.items() if record["status"] == "done"
    }
    assert records[child.run_id]["parents"] == [good.run_id]
    assert orphan.run_id not in records
    assert launched.status(bad) == ("failed", "error: IndexError: list index out of range")
    assert "RunFailed: error: IndexError" in launched.job_said(bad)
    assert launched.status(orphan) == ("lost", f"it starts from {bad.title}, which failed")

    again = Launched(tmp_path, context, [bad], again={bad.run_id})
    again.wait_until_nothing_is_queued()
    lines = (context.ledger / "toy.jsonl").read_text().splitlines()
    assert sum(bad.run_id in line[:30] for line in lines) == 1  # the same failure is one line
    assert again.folder(bad).log.read_text().count("\nIndexError") == 2


def test_two_jobs_never_do_the_same_run(cluster, context, tmp_path):
    spec = line_spec(steps=150, seconds=0.05)
    first = Launched(tmp_path, context, [spec])
    first.wait_until_it_trains(spec)
    second = Launched(tmp_path, context, [spec])
    wait_for(lambda: "works on this run" in second.job_said(spec), "the second job to leave")
    assert f"job {first.jobs[spec.run_id]} on " in second.job_said(spec)
    first.wait_until_it_ended(spec)
    assert_as_undisturbed(first, spec, tmp_path)


def test_an_edited_plan_file_is_refused(cluster, context, tmp_path):
    slurm("scontrol", "update", "partition=main", "state=down")
    try:
        spec = line_spec()
        launched = Launched(tmp_path, context, [spec])
        assert launched.status(spec)[0] == "queued"
        plan = json.loads(launched.plan.read_text())
        plan["runs"][0]["settings"]["budget"]["steps"] = 3
        launched.plan.write_text(json.dumps(plan))
    finally:
        slurm("scontrol", "update", "partition=main", "state=up")
    launched.wait_until_nothing_is_queued()
    state, note = launched.status(spec)
    assert state == "lost"
    assert "the plan was edited" in note


def test_two_hundred_runs_are_one_call_of_sbatch(cluster, context, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    counting = tmp_path / "bin" / "sbatch"
    counting.parent.mkdir()
    counting.write_text(f'#!/bin/sh\necho call >> {calls}\nexec {shutil.which("sbatch")} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{counting.parent}:{os.environ['PATH']}")
    specs = [line_spec(seed=seed, method="Solver") for seed in range(200)]
    begun = time.monotonic()
    launched = Launched(tmp_path, context, specs, SMALL.model_copy(update={"partition": "closed"}))
    seconds = time.monotonic() - begun
    assert calls.read_text().splitlines() == ["call"]
    assert len(queue.read_queue()) == 200
    # 200 jobs cost a few calls of submitit's own size, not one for each of them
    one = [line_spec(seed=200, method="Solver")]
    begun = time.monotonic()
    Launched(tmp_path / "one", context, one, SMALL.model_copy(update={"partition": "closed"}))
    assert seconds < 20 * (time.monotonic() - begun)
    assert launched.status(specs[199]) == (
        "queued", f"job {launched.jobs[specs[199].run_id]} waits (PartitionDown)"
    )  # fmt: skip


@pytest.mark.slow
def test_what_the_queue_costs_a_run_that_does_nothing(cluster, context, tmp_path, capsys):
    specs = [line_spec(seed=seed, method="Solver") for seed in range(20)]
    alone = replace(context, runs=tmp_path / "alone", ledger=tmp_path / "alone ledger")
    # what a job is without a queue: a process that imports the library and carries out one run
    plan = write_plan(specs[:1], tmp_path / "plans", "alone")
    script = (
        "import pickle, sys\n"
        "from sextant.runs.worker import carry_out\n"
        "carry_out(*pickle.load(sys.stdin.buffer), False)"
    )
    begun = time.monotonic()
    given = pickle.dumps((plan, 0, alone))
    subprocess.run([sys.executable, "-c", script], input=given, cwd=ROOT, check=True)
    process = time.monotonic() - begun

    begun = time.monotonic()
    Launched(tmp_path, context, specs)
    wait_for(lambda: not queue.read_queue(), "the queue to empty", 500)  # two minutes when idle
    whole = time.monotonic() - begun
    records = ledger.read(context.ledger).values()
    assert [record["status"] for record in records] == ["done"] * len(specs)
    own = sum(record["seconds"] for record in records) / len(specs)
    beyond = whole * CORES / len(specs) - own
    with capsys.disabled():
        print(
            f"\n{len(specs)} runs, {CORES} at once, in {whole:.0f} s: {beyond:.1f} s a run and slot"
            f" beyond its own {own:.2f} s; a process alone takes {process:.1f} s"
        )
    # CORES is what the cluster claims; this machine may have fewer to share
    assert beyond < 3 * process * max(1, CORES / len(os.sched_getaffinity(0))) + 5


def test_what_sbatch_refuses_is_one_sentence(cluster, context, tmp_path):
    with pytest.raises(UserError, match=r"sbatch refuses: .*[Ii]nvalid partition"):
        Launched(
            tmp_path, context, [line_spec()], SMALL.model_copy(update={"partition": "nowhere"})
        )


def test_lines_of_a_setup_that_fail_are_what_status_shows(cluster, context, tmp_path):
    spec = line_spec()
    broken = SMALL.model_copy(update={"setup": ("module load cuda/none || exit 7",)})
    launched = Launched(tmp_path, context, [spec], broken)
    launched.wait_until_nothing_is_queued()
    state, note = launched.status(spec)
    assert state == "lost"
    assert "module: command not found" in note


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_resume(cluster, context, tmp_path):
    spec = shared_spec(steps=300, seconds=0.05)
    shared = replace(context, trainer=TRAINER)
    whole = Launched(
        tmp_path / "whole", replace(shared, runs=tmp_path / "w", ledger=tmp_path / "wl"), [spec]
    )
    stopped = Launched(tmp_path / "stopped", shared, [spec])
    stopped.wait_until_it_trains(spec)
    slurm("scancel", "--signal=USR2", stopped.jobs[spec.run_id])
    wait_for(lambda: stopped.status(spec)[0] == "preempted", "the run to be queued again")
    for launched in (whole, stopped):
        launched.wait_until_it_ended(spec)
        assert launched.record(spec)["status"] == "done", launched.record(spec)
    ours, theirs = weights(stopped.context, spec), weights(whole.context, spec)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
