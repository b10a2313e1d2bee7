"""Where a table's numbers come from, and which runs are not there."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sextant.tables.cells import Cell
from sextant.tables.schema import TableDefinition

SHORT = 10


@dataclass(frozen=True)
class Hole:
    """Seeds of a cell without a score, for one reason: `missing`, or why the runs failed."""

    reason: str
    row: str
    column: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Origins:
    """What the runs of a table share.

    `commits` are short, with a plus where the tree had changes; `hours` go by device; `data`
    gives the fingerprints of each data set by its true name; `data_of` the names by column;
    `digest` is 16 hex of the sha256 over the ledger lines.
    """

    runs: int
    commits: tuple[str, ...]
    hours: Mapping[str, float]
    data: Mapping[str, tuple[str, ...]]
    data_of: Mapping[str, tuple[str, ...]]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The `generated_from` of a table's json."""
        return {
            "runs": self.runs,
            "ledger_digest": self.digest,
            "commits": list(self.commits),
            "hours": {device: round(hours, 4) for device, hours in self.hours.items()},
            "data": {name: list(prints) for name, prints in self.data.items()},
        }


def holes(definition: TableDefinition, cells: Mapping[tuple[str, str], Cell]) -> tuple[Hole, ...]:
    """Every seed without a score, once a run: the points of the evaluation axis share the run,
    except where only some of them were scored."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for line in definition.lines:
        for column in definition.columns:
            cell = cells[line.key, column.key]
            for seed in cell.missing:
                found.setdefault(("missing", line.row.key, column.key), set()).add(seed)
            for seed, reason in cell.failures.items():
                found.setdefault((reason, line.row.key, column.key), set()).add(seed)
    return tuple(Hole(*key, tuple(sorted(found[key]))) for key in sorted(found))


def origins(
    definition: TableDefinition,
    plan: Mapping[tuple[str, str], tuple[tuple[int, str], ...]],
    records: Mapping[str, Mapping[str, Any]],
) -> Origins:
    """Gathers commits, hours and data over the runs of a table, each run counted once."""
    commits: set[str] = set()
    seconds: dict[str, list[float]] = {}
    data: dict[str, set[str]] = {}
    lines = hashlib.sha256()
    for run_id in sorted(records):
        record = records[run_id]
        provenance = record.get("provenance") or {}
        if provenance.get("commit"):
            mark = "+" if provenance.get("dirty") else ""
            commits.add(str(provenance["commit"])[:SHORT] + mark)
        device = str(provenance.get("device") or "cpu")
        seconds.setdefault(device, []).append(float(record.get("seconds") or 0.0))
        for name, fingerprint in (provenance.get("data") or {}).items():
            data.setdefault(name, set()).add(str(fingerprint))
        lines.update(json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    data_of: dict[str, tuple[str, ...]] = {}
    for column in definition.columns:
        runs = [run_id for (_, key), run in plan.items() if key == column.key for _, run_id in run]
        names = {
            name
            for run_id in runs
            if run_id in records
            for name in ((records[run_id].get("provenance") or {}).get("data") or {})
        }
        data_of[column.key] = tuple(sorted(names))
    return Origins(
        runs=len(records),
        commits=tuple(sorted(commits)),
        hours={key: math.fsum(seconds[key]) / 3600 for key in sorted(seconds)},
        data={name: tuple(sorted(data[name])) for name in sorted(data)},
        data_of=data_of,
        digest=lines.hexdigest()[:16],
    )
