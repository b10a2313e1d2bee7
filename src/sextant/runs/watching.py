"""What the run folders say of the present: which runs are carried out, ended or stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.files import read_json
from sextant.runs import curves
from sextant.runs.launch.owner import worker_of
from sextant.runs.store import RunFolder

PATIENCE = (
    5.0  # seconds between a run's folder and its lease beyond which it had an earlier attempt
)


@dataclass(frozen=True)
class Active:
    """A run that is carried out now.

    `step` and `metrics` are those of this attempt; they are empty until it has trained for half a
    second. `steps` is 0 where the run does not train.
    """

    run_id: str
    task: str
    method: str
    seed: int
    owner: str
    since: float
    first_attempt: bool
    step: int = 0
    steps: int = 0
    seen: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A run that ended, or (with status `stopped`) that nobody carries out any more."""

    run_id: str
    task: str
    method: str
    seed: int
    status: str
    at: float
    said: str


def active(runs: Path) -> list[Active]:
    """The runs that are carried out now, those begun first first."""
    found = [_active(folder, owner) for folder, owner in _held(runs)]
    return sorted((run for run in found if run is not None), key=lambda run: run.since)


def ended(runs: Path, since: float) -> list[Ended]:
    """The runs that ended or stopped after the time `since`, the last one first."""
    found = []
    for folder in _folders(runs):
        result, state = _modified(folder.result), _modified(folder.state)
        if result > since and result >= _modified(folder.path / "lease"):
            found.append(_ended(folder, result))
        elif result == 0.0 and state > since and worker_of(folder) is None:
            found.append(_stopped(folder, state))
    return sorted((run for run in found if run is not None), key=lambda run: -run.at)


def _folders(runs: Path) -> Iterator[RunFolder]:
    return (RunFolder(path) for path in sorted(runs.glob("*/")))


def _held(runs: Path) -> Iterator[tuple[RunFolder, str]]:
    for folder in _folders(runs):
        taken = _modified(folder.path / "lease")
        # trying a lease takes it for an instant, so those of runs that ended are left alone
        if taken and taken > _modified(folder.result):
            owner = worker_of(folder)
            if owner is not None:
                yield folder, owner


def _active(folder: RunFolder, owner: str) -> Active | None:
    spec = _read(folder.spec)
    if spec is None:
        return None
    since = _modified(folder.path / "lease")
    common = {
        "run_id": spec["run_id"],
        "task": spec["task"],
        "method": spec["method"],
        "seed": spec["seed"],
        "owner": owner,
        "since": since,
        "first_attempt": since - _modified(folder.spec) < PATIENCE,
    }
    state = _read(folder.state)
    if state is None or state["time"] < since:
        return Active(**common)
    return Active(
        **common,
        step=state["step"],
        steps=state["steps"],
        seen=state["time"],
        metrics=state["metrics"],
        curve=tuple(curves.last_values(folder.curves, next(iter(state["metrics"]), ""))),
    )


def _ended(folder: RunFolder, at: float) -> Ended | None:
    record = _read(folder.result)
    if record is None:
        return None
    if record["status"] == "done":
        name, score = next(iter(record["scores"].items()), ("done", {"value": 0.0}))
        said = f"{name} {score['value']:.4g}"
    else:
        said = f"{record['reason']}: {record.get('message', '')}".splitlines()[0]
    return Ended(
        record["run_id"],
        record["task"],
        record["method"],
        record["seed"],
        record["status"],
        at,
        said,
    )


def _stopped(folder: RunFolder, at: float) -> Ended | None:
    spec, state = _read(folder.spec), _read(folder.state)
    if spec is None or state is None:
        return None
    resumes = "resumes there" if folder.checkpoint.is_file() else "begins anew"
    said = f"at step {state['step']} of {state['steps']}; the same command {resumes}"
    return Ended(
        spec["run_id"], spec["task"], spec["method"], spec["seed"], "stopped", at, said
    )  # fmt: skip


class Pace:
    """Steps a second, from what a run's state said over the last minute.

    A run seen once is judged by the time since it began, unless it went on from an earlier attempt:
    then the steps of this one are not known yet.
    """

    def __init__(self, window: float = 60.0) -> None:
        self.window = window
        self.seen: dict[str, list[tuple[float, int]]] = {}

    def look(self, runs: list[Active]) -> None:
        """Takes note of where the runs are."""
        known = {run.run_id for run in runs}
        self.seen = {run_id: past for run_id, past in self.seen.items() if run_id in known}
        for run in runs:
            past = self.seen.setdefault(run.run_id, [])
            if run.seen and (not past or run.seen > past[-1][0]):
                if past and run.step < past[-1][1]:
                    past.clear()
                past.append((run.seen, run.step))
                while run.seen - past[0][0] > self.window and len(past) > 2:
                    past.pop(0)

    def of(self, run: Active) -> float | None:
        """Steps a second, or None where nothing is known yet."""
        past = self.seen.get(run.run_id, [])
        if len(past) > 1:
            (first, before), (last, after) = past[0], past[-1]
            return (after - before) / (last - first)
        if past and run.first_attempt and run.seen > run.since:
            return run.step / (run.seen - run.since)
        return None

    def left(self, run: Active, now: float | None = None) -> float | None:
        """Seconds until the last step."""
        pace = self.of(run)
        if not pace or not run.steps:
            return None
        gone = (time.time() if now is None else now) - run.seen
        return max(0.0, (run.steps - run.step) / pace - gone)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> Any:
    """A file that its writer may remove or that is damaged at this moment is looked at later."""
    try:
        return read_json(path)
    except (OSError, UserError, json.JSONDecodeError):
        return None
