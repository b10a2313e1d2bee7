"""Processes of the local launcher: they end with it, and a dead one leaves a line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sextant.runs import ledger, training
from sextant.runs.plan import write_plan
from sextant.runs.store import RunFolder
from tests.runs.conftest import TRAINER
from tests.toy import ROOT, line_spec

LAUNCHER = """
import sys
from pathlib import Path
from sextant.runs.context import RunContext
from sextant.runs.launch.local import launch
from sextant.runs.launch.progress import Progress
from sextant.runs.plan import read_plan

if __name__ == "__main__":
    plan, folder = map(Path, sys.argv[1:3])
    context = RunContext(Path(sys.argv[3]), folder / "runs", folder / "ledger", {trainer})
    specs = read_plan(plan)
    launch(plan, specs, context, 1, Progress(specs, lambda spec: None, 1))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_a_launcher_that_is_killed_takes_its_processes_along(tmp_path, how):
    spec = line_spec(steps=100_000, seconds=0.01)
    program = tmp_path / "launcher.py"
    program.write_text(LAUNCHER.format(trainer={**TRAINER, "checkpoint_seconds": 1e9}))
    plan = write_plan([spec], tmp_path / "plans", "toy")
    launcher = subprocess.Popen(
        [sys.executable, program, plan, tmp_path, ROOT],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    folder = RunFolder(tmp_path / "runs" / spec.run_id)
    assert seen(folder.state), "the run did not begin"
    launcher.send_signal(how)
    launcher.wait(60)
    assert seen(folder.checkpoint), "the run went on without its launcher"
    assert not ledger.read(tmp_path / "ledger")


def seen(path: Path) -> bool:
    end = time.monotonic() + 120
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    return path.is_file()


def test_an_allocation_around_a_run_of_one_process_is_not_its_cluster(context, monkeypatch):
    from sextant.runs.execute import execute

    for name, value in {
        "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "theirs", "SLURM_NTASKS_PER_NODE": "4",
        "RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4", "GROUP_RANK": "1",
        "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "theirs",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    spec = line_spec(steps=6)
    assert execute(spec, context)["status"] == "done"
    assert RunFolder(context.runs / spec.run_id).curves.read_text().count("loss") == 3


def test_a_run_keeps_to_one_thread_whoever_carries_it_out(context, monkeypatch):
    from sextant.runs.execute import execute

    asked = []
    monkeypatch.setattr(training.torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    execute(line_spec(method="Solver"), context)
    assert asked == [1]
