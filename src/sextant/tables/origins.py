"""Where a table's numbers come from, and which runs are not there."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sextant.schemas import nearest
from sextant.tables.cells import Cell
from sextant.tables.schema import TableDefinition

SHORT = 10
Plan = Mapping[tuple[str, str], tuple[tuple[int, str], ...]]


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

    `parents` says of every run they start from what it is and how it scored. `commits` are short,
    with a plus where the tree had changes; `hours` go by device; `data` gives the fingerprints of
    each data set by its true name, `data_of` the same for each column; `digest` is 16 hex of the
    sha256 over id, status, reason and scores of every run; the id stands for the settings.
    """

    runs: int
    commits: tuple[str, ...]
    hours: Mapping[str, float]
    data: Mapping[str, tuple[str, ...]]
    data_of: Mapping[str, Mapping[str, tuple[str, ...]]]
    digest: str
    parents: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The `generated_from` of a table's json."""
        return {
            "runs": self.runs,
            "ledger_digest": self.digest,
            "commits": list(self.commits),
            "hours": {device: round(hours, 4) for device, hours in self.hours.items()},
            "parents": list(self.parents),
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
    reasons = sorted({reason for reason, _, _ in found})
    return tuple(
        Hole(reason, row.key, column.key, tuple(sorted(found[reason, row.key, column.key])))
        for reason in reasons
        for row in definition.rows
        for column in definition.columns
        if (reason, row.key, column.key) in found
    )


def origins(
    plan: Plan,
    records: Mapping[str, Mapping[str, Any]],
    everything: Mapping[str, Mapping[str, Any]],
) -> Origins:
    """Gathers commits, hours and data over the runs of a table, each run counted once.

    Args:
        plan: the runs of each cell.
        records: their ledger lines.
        everything: other ledger lines too, among which the parents are looked up.
    """
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
        outcome = [run_id, record.get("status"), record.get("reason"), record.get("scores")]
        lines.update(json.dumps(outcome, sort_keys=True).encode() + b"\n")
    return Origins(
        runs=len(records),
        commits=tuple(sorted(commits)),
        hours={key: math.fsum(seconds[key]) / 3600 for key in sorted(seconds)},
        data={name: tuple(sorted(data[name])) for name in sorted(data)},
        data_of=_data_of(plan, records),
        digest=lines.hexdigest()[:16],
        parents=_parents(records, everything),
    )


def _parents(
    records: Mapping[str, Mapping[str, Any]], everything: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    wanted = {run_id for record in records.values() for run_id in record.get("parents") or ()}
    found = []
    for run_id in wanted & everything.keys():
        parent = everything[run_id]
        scores = ", ".join(
            f"{name} {score['value']:.4g}" for name, score in sorted(parent["scores"].items())
        )
        outcome = scores or f"{parent['status']}: {parent.get('reason')}"
        found.append(f"{parent['task']} by {parent['method']}, seed {parent['seed']}: {outcome}")
    return tuple(sorted(found))


def mixed_data(definition: TableDefinition, found: Origins) -> tuple[str, ...]:
    """A sentence for each column whose runs saw different data under one name."""
    return tuple(
        f"Runs of column {column.label} saw {len(prints)} different versions of {name}"
        for column in definition.columns
        for name, prints in found.data_of.get(column.key, {}).items()
        if len(prints) > 1
    )


def wrong_metrics(
    definition: TableDefinition, plan: Plan, records: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """A sentence for each column whose metric none of its runs has, with those they have."""
    notes = []
    for column in definition.columns:
        runs = {run for (_, key), cell in plan.items() if key == column.key for _, run in cell}
        scored = {name for run in runs if run in records for name in records[run].get("scores", {})}
        lines = [line for line in definition.lines if definition.fills(line, column)]
        asked = {
            f"{column.metric}@{line.at}" if line.at is not None else column.metric for line in lines
        }
        if scored and not scored & asked:
            alike = [name for name in scored if name.startswith(f"{column.metric}@")]
            words = sorted(alike or scored, key=_by_point)
            notes.append(
                f"Column {column.label} asks for the score "
                f"{column.metric}, which none of its runs has; they have {', '.join(words)}"
                f"{'' if alike else nearest(column.metric, words)}"
            )
    return tuple(notes)


def _by_point(score: str) -> tuple[str, int, str]:
    """Orders w2@2 before w2@10."""
    name, _, point = score.partition("@")
    return name, int(point) if point.isdigit() else -1, point


def _data_of(
    plan: Plan, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The fingerprints of each data set, by column and name, names sorted."""
    found: dict[str, dict[str, set[str]]] = {}
    for (_, column), runs in plan.items():
        names = found.setdefault(column, {})
        for _, run_id in runs:
            provenance = records.get(run_id, {}).get("provenance") or {}
            for name, fingerprint in (provenance.get("data") or {}).items():
                names.setdefault(name, set()).add(str(fingerprint))
    return {
        column: {name: tuple(sorted(prints)) for name, prints in sorted(names.items())}
        for column, names in found.items()
    }
