"""Tables reproduced on a real SLURM by the commands a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sextant.runs import ledger
from sextant.runs.launch import queue
from sextant.runs.launch.submissions import read_submissions
from sextant.runs.plan import read_plan
from tests.slurm.launched import slurm, wait_for
from tests.toy import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ONE_ROW = ["12", "tier=smoke", "rows=mean_flow"]


@pytest.fixture
def results(cluster, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def main_is_down(cluster):
    """What is submitted meanwhile waits."""
    slurm("scontrol", "update", "partition=main", "state=down")
    yield
    slurm("scontrol", "update", "partition=main", "state=up")


def sextant(*arguments: str, folder: Path = ROOT) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "sextant.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def wait_for_the_queue() -> None:
    wait_for(lambda: not queue.read_queue(), "the queue to empty", 240)


def test_an_array_of_smoke_runs_fills_a_row_and_is_sent_once(results):
    said = sextant("reproduce", *ONE_ROW, "where=slurm")
    assert "submitting 3, at most 3 at once: no run like these was timed yet" in said
    array = next(iter(read_submissions(results / "slurm").values())).job.split("_")[0]
    assert f"submitted {array}_[0-2]" in said
    jobs = set(queue.read_queue())
    again = sextant("reproduce", *ONE_ROW, "where=slurm")
    assert "3 of them are queued or running already" in again
    assert "nothing to submit" in again
    assert set(queue.read_queue()) <= jobs
    assert " queued" in sextant("status", "12") or " running" in sextant("status", "12")
    wait_for_the_queue()
    records = ledger.read(results / "ledger")
    assert sorted(record["status"] for record in records.values()) == ["done"] * 3
    assert "3 done" in sextant("status", "12")
    table = sextant("reproduce", *ONE_ROW, "where=slurm")
    assert table.startswith("Table 12")
    timed = sextant("plan", "12", "tier=smoke", "rows=mean_flow", "seeds=0,1")
    assert "would run 3: about " in timed


def test_what_was_frozen_runs_whatever_is_edited_after_the_launch(results, main_is_down, tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("conf", "src", "tasks"):
        shutil.copytree(ROOT / part, checkout / part)
    one = ["12", "tier=smoke", "rows=mean_flow", "columns=moons"]
    sextant("reproduce", *one, "where=slurm", folder=checkout)
    (spec,) = read_plan(next((results / "plans").glob("*.json")))
    budget = checkout / "conf/task/generation/eight_gaussians_to_moons.yaml"
    steps = spec.settings["budget"]["steps"]
    budget.write_text(budget.read_text().replace(f"steps: {steps}", f"steps: {steps + 1}"))
    assert "would run 1" in sextant("plan", *one, folder=checkout)
    slurm("scontrol", "update", "partition=main", "state=up")
    wait_for_the_queue()
    records = ledger.read(results / "ledger")
    assert list(records) == [spec.run_id]
    assert records[spec.run_id]["spec"]["budget"]["steps"] == steps
    assert "would run 1" in sextant("plan", *one, folder=checkout)  # the edited run is another one


def test_retry_failed_sends_failed_runs_alone(results, main_is_down):
    sextant("reproduce", *ONE_ROW, "columns=moons", "where=slurm")
    (spec,) = read_plan(next((results / "plans").glob("*.json")))
    slurm("scancel", "--quiet", "--user", str(os.getuid()))
    wait_for_the_queue()
    line = (ROOT / "results/ledger/generation.jsonl").read_text().splitlines()[0]
    failed = json.loads(line) | {
        "run_id": spec.run_id,
        "task": spec.task,
        "method": spec.method,
        "tier": spec.tier,
        "seed": spec.seed,
        "status": "failed",
        "reason": "diverged",
        "message": "the loss is nan at step 3\nmore",
        "scores": {},
    }
    ledger.append(results / "ledger", failed)
    assert f"failed    {spec.title}: diverged: the loss is nan at step 3 more\n" in sextant(
        "status", "12", "tier=smoke"
    )
    assert "submitting 2" in sextant("reproduce", *ONE_ROW, "where=slurm")
    assert "submitting 1" in sextant("reproduce", *ONE_ROW, "where=slurm", "--retry", "failed")
    assert len(queue.read_queue()) == 3
    assert sextant("status", "12").count("queued    generation/") == 3

    slurm("scancel", "--quiet", "--user", str(os.getuid()))
    wait_for_the_queue()
    # Two left the queue without a result and one failed: all three are failures to try again.
    again = sextant("reproduce", "12", "tier=smoke", "where=slurm", "--retry", "failed")
    assert "submitting 3" in again


def test_hydras_own_multirun_goes_through_the_queue(results, tmp_path):
    sextant(
        "run", "--multirun", "hydra/launcher=slurm", "task=generation/normal_to_eight_gaussians",
        "method=flow/mean_flow", "tier=smoke", "seed=0,1", "hydra.launcher.mem_gb=1",
        f"hydra.launcher.submitit_folder={tmp_path}/jobs/%j",
        f"hydra.sweep.dir={tmp_path}/multirun",
    )  # fmt: skip
    records = ledger.read(results / "ledger").values()
    assert sorted((record["seed"], record["status"]) for record in records) == [
        (0, "done"),
        (1, "done"),
    ]


@pytest.mark.slow
def test_hydras_own_multirun_has_one_owner_of_requeueing(results, tmp_path):
    waiting = subprocess.Popen(
        [
            *(sys.executable, "-m", "sextant.cli", "run", "--multirun", "hydra/launcher=slurm"),
            *("task=generation/normal_to_eight_gaussians", "method=flow/mean_flow", "tier=smoke"),
            *("seed=0", "budget.steps=3000", "hydra.launcher.mem_gb=1"),
            f"hydra.launcher.submitit_folder={tmp_path}/jobs/%j",
            f"hydra.sweep.dir={tmp_path}/multirun",
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(results.glob("runs/*/state.json")), "the run to train")
        (job,) = (one.job for one in queue.read_queue().values())
        slurm("scancel", "--signal=USR2", job)
        wait_for(lambda: queue.state_of(job) == "PENDING", "the run to be queued again")
        # submitit's own handler would leave in the middle of a step, without a checkpoint
        (checkpoint,) = results.glob("runs/*/checkpoint.ckpt")
        assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
        assert waiting.poll() is None
        assert waiting.wait(240) == 0
    finally:
        waiting.kill()
    assert "Restarts=1 " in slurm("scontrol", "show", "job", job)
    said = "".join(path.read_text() for path in tmp_path.glob("jobs/*/*_log.*"))
    assert "Loading pickle" in said
    assert "Caught signal" not in said  # which is what submitit's handler says
    (record,) = ledger.read(results / "ledger").values()
    assert record["status"] == "done"
