"""How each run of a plan stands, from the ledger, the run folders and the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.files import read_json
from sextant.runs.launch.owner import owner_of
from sextant.runs.launch.queue import QueuedJob
from sextant.runs.launch.submissions import Submission
from sextant.runs.lease import holder
from sextant.runs.plan import DONE, FAILED, RunPlan
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder
from sextant.words import duration

RUNNING, PREEMPTED, QUEUED, LOST, MISSING = "running", "preempted", "queued", "lost", "missing"
ORDER = (RUNNING, PREEMPTED, QUEUED, LOST, FAILED, MISSING, DONE)


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Args:
        state: running; preempted (stopped at a checkpoint, to go on from there); queued; lost (its
            job left the queue and no result); failed; missing; done.
        note: where it runs and how far it is, why it waits, or the first line of why it failed.
    """

    spec: RunSpec
    state: str
    note: str


class StatusReader:
    """Tells how runs stand.

    Args:
        runs: the run folders.
        submitted: the jobs that were sent, by run id.
        queue: what SLURM has now, or None where it cannot be asked.
        expected: seconds expected of a run, or None.
    """

    def __init__(
        self,
        runs: Path,
        submitted: Mapping[str, Submission],
        queue: Mapping[str, QueuedJob] | None,
        expected: Callable[[RunSpec], float | None],
    ) -> None:
        self.runs, self.submitted, self.queue = runs, submitted, queue
        self.expected = expected

    def of(self, plan: RunPlan) -> list[RunStatus]:
        """The runs of a plan, those that need attention first."""
        found = [self._one(spec, plan) for spec in plan.specs]
        return sorted(found, key=lambda status: ORDER.index(status.state))

    def _one(self, spec: RunSpec, plan: RunPlan) -> RunStatus:
        folder = RunFolder(self.runs / spec.run_id)
        record = plan.records.get(spec.run_id)
        job = self.job(spec.run_id)
        if job is not None and job.on_a_node:
            return RunStatus(spec, RUNNING, self._running(spec, folder, job))
        if job is not None:
            why = f"job {job.job} waits ({job.why})"
            if folder.checkpoint.is_file():
                return RunStatus(spec, PREEMPTED, f"{_at(folder)}; {why}")
            return RunStatus(spec, QUEUED, why)
        owner = holder(folder.path / "lease")
        if owner is not None:
            began = (folder.path / "lease").stat().st_mtime
            return RunStatus(spec, RUNNING, owner + self._progress(spec, folder, began, None))
        if plan.states[spec.run_id] == DONE:
            return RunStatus(spec, DONE, "")
        if record is not None and record["status"] == "failed":
            return RunStatus(spec, FAILED, _why(record))
        sent = self.submitted.get(spec.run_id)
        failed = [p for p in spec.parents.values() if plan.states.get(p.run_id) == FAILED]
        if sent is not None and failed:
            return RunStatus(spec, LOST, f"it starts from {failed[0].title}, which failed")
        if sent is not None and self.queue is not None:
            return RunStatus(
                spec, LOST, f"job {sent.job} ended without a result: {last_line(sent)}"
            )
        if folder.checkpoint.is_file():
            return RunStatus(spec, PREEMPTED, f"{_at(folder)}; the same command goes on")
        return RunStatus(spec, MISSING, "")

    def job(self, run_id: str) -> QueuedJob | None:
        """The job of a run that SLURM still has, or None."""
        sent = self.submitted.get(run_id)
        if sent is None or self.queue is None:
            return None
        return sent.queued(self.queue)

    def _running(self, spec: RunSpec, folder: RunFolder, job: QueuedJob) -> str:
        said = f"job {job.job} on {job.host}" + ", ending" * (job.state == "COMPLETING")
        owner = owner_of(folder)
        if owner is None or owner["job"] != job.job:
            return f"{said}: starting"
        return said + self._progress(spec, folder, owner["since"], owner["step"])

    def _progress(self, spec: RunSpec, folder: RunFolder, began: float, first: int | None) -> str:
        """How far an attempt is that began at a time and a step (None where nobody knows)."""
        state = _state(folder)
        if state is None or state["time"] < began:
            return ": preparing"
        said = f": step {state['step']} of {state['steps']}"
        for name, value in list(state["metrics"].items())[:1]:
            said += f", {name} {value:.4g}"
        left = self._left(spec, state, began, first)
        return said if left is None else f"{said}, about {duration(left)} left"

    def _left(
        self, spec: RunSpec, state: Mapping[str, Any], began: float, first: int | None
    ) -> float | None:
        steps = state["steps"] - state["step"]
        if first is not None and state["step"] > first:
            pace = (state["time"] - began) / (state["step"] - first)
            return max(0.0, steps * pace - (time.time() - state["time"]))
        known = self.expected(spec)
        return None if known is None else known * steps / state["steps"]


def last_line(sent: Submission) -> str:
    """What a job said last, or where it would have said it."""
    lines = sent.log.read_text(errors="replace").split("\n") if sent.log.is_file() else []
    said = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
    return said[-1][:300] if said else f"it left no word in {sent.log}"


def _why(record: Mapping[str, Any]) -> str:
    lines = str(record.get("message", "")).splitlines() or [""]
    return f"{record['reason']}: {lines[0]}" if lines[0] else record["reason"]


def _at(folder: RunFolder) -> str:
    state = _state(folder)
    return "at a checkpoint" if state is None else f"at step {state['step']} of {state['steps']}"


def _state(folder: RunFolder) -> Mapping[str, Any] | None:
    try:
        return read_json(folder.state)
    except (OSError, UserError):
        return None
