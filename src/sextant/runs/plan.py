"""What would run, and why: want minus have, frozen before anything is launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.files import read_json, write_json
from sextant.runs import ledger
from sextant.runs.identity import run_id
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder

Records = Mapping[str, Mapping[str, Any]]
DONE, FAILED, MISSING, PARENT = "done", "failed", "missing", "parent's weights are not here"


@dataclass(frozen=True)
class RunPlan:
    """The runs a table wants, parents first, and what is known of each.

    `states` says of each run id: done, failed, missing, or that a finished parent has to be made
    again because its weights are not on this machine.
    """

    specs: tuple[RunSpec, ...]
    states: Mapping[str, str]
    records: Records

    def to_run(self, retry: bool = False) -> list[RunSpec]:
        """The runs to carry out; failed ones only when asked, since a failure is a result."""
        again = {MISSING, PARENT} | ({FAILED} if retry else set())
        return [spec for spec in self.specs if self.states[spec.run_id] in again]

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.states.values())


def make_plan(wanted: Iterable[RunSpec], records: Path | Records, runs_folder: Path) -> RunPlan:
    """Compares the runs wanted, and the parents they need, with the ledger and the run folders.

    Args:
        records: the ledger's folder, or the lines of it that were read.
    """
    specs: dict[str, RunSpec] = {}
    for spec in wanted:
        for member in spec.lineage():
            specs.setdefault(member.run_id, member)
    if isinstance(records, Path):
        records = ledger.read(records, specs)
    states = {run_id: _state(records.get(run_id)) for run_id in specs}
    for spec in specs.values():
        if states[spec.run_id] == MISSING:
            for parent in spec.parents.values():
                weights = RunFolder(runs_folder / parent.run_id).student
                if states[parent.run_id] == DONE and not weights.is_file():
                    states[parent.run_id] = PARENT
    return RunPlan(tuple(specs.values()), states, records)


def _state(record: Mapping[str, Any] | None) -> str:
    return MISSING if record is None else record["status"]


def write_plan(runs: Iterable[RunSpec], folder: Path, name: str) -> Path:
    """Writes the runs as they are resolved now; workers carry out this file, whatever is edited."""
    frozen = [spec.to_json() for spec in runs]
    identity = run_id({"runs": [entry["run_id"] for entry in frozen]}, {})
    path = folder / f"{name}-{identity}.json"
    write_json(path, {"runs": frozen})
    return path


def read_plan(path: Path) -> list[RunSpec]:
    """The runs of a frozen plan.

    Raises:
        UserError: where there is none, it is damaged, or settings no longer give their ids.
    """
    if not path.is_file():
        raise UserError(f"there is no frozen plan at {path}")
    try:
        return [RunSpec.from_json(entry) for entry in read_json(path)["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no frozen plan ({error!r}); make it anew") from None
