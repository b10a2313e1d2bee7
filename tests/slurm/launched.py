"""Runs of the toy that were submitted, and what tests want to know of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sextant.files import read_json
from sextant.runs import ledger
from sextant.runs.launch import queue
from sextant.runs.launch.cluster import Cluster
from sextant.runs.launch.run_status import StatusReader
from sextant.runs.launch.slurm import launch
from sextant.runs.launch.submissions import read_submissions
from sextant.runs.plan import make_plan, write_plan
from sextant.runs.store import RunFolder

SMALL = Cluster(cpus=1, memory_gb=1, minutes=10)


def slurm(*command: str) -> str:
    """What one of SLURM's commands prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_for(happens: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.1)


class Launched:
    """Runs that were submitted, and what is to be known of them."""

    def __init__(self, folder: Path, context, specs, cluster=SMALL, **more) -> None:
        self.specs, self.context, self.logs = specs, context, folder / "slurm"
        self.plan = write_plan(specs, folder / "plans", "toy")
        self.jobs = launch(self.plan, specs, context, cluster, self.logs, **more)

    def folder(self, spec) -> RunFolder:
        return RunFolder(self.context.runs / spec.run_id)

    def record(self, spec):
        return ledger.read(self.context.ledger).get(spec.run_id)

    def job_said(self, spec) -> str:
        log = read_submissions(self.logs)[spec.run_id].log
        return log.read_text() if log.is_file() else ""

    def status(self, spec) -> tuple[str, str]:
        reader = StatusReader(
            self.context.runs, read_submissions(self.logs), queue.read_queue(), lambda spec: None
        )
        plan = make_plan(self.specs, self.context.ledger, self.context.runs)
        found = next(one for one in reader.of(plan) if one.spec.run_id == spec.run_id)
        return found.state, found.note

    def wait_until_it_trains(self, spec, step: int = 10) -> None:
        state = self.folder(spec).state
        wait_for(lambda: state.is_file() and read_json(state)["step"] >= step, "the first steps")

    def wait_until_it_ended(self, spec, seconds: float = 240) -> None:
        wait_for(lambda: self.record(spec) is not None, "the run to end", seconds)

    def wait_until_nothing_is_queued(self) -> None:
        wait_for(lambda: not queue.read_queue(), "the queue to empty")


def weights(context, spec):
    return torch.load(RunFolder(context.runs / spec.run_id).student)
