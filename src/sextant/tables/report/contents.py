"""What a report is made from, and the few facts that several of its pages tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.tables.register import Register
from sextant.tables.render import file_stem
from sextant.tables.schema import Column, Line, TableDefinition
from sextant.tables.table import Table


@dataclass(frozen=True)
class RunFiles:
    """What the folder of a run holds for its page; nothing where the folder is elsewhere."""

    curves: Path | None = None
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Before:
    """Another state of the ledger: what it is called, and its filled tables by number."""

    name: str
    tables: Mapping[int, Sequence[Table]]


@dataclass(frozen=True)
class Report:
    """Everything the pages tell.

    `definitions` and `tables` go by number; the tables of a number are those with results, lowest
    tier first. `records` is the whole ledger by run id, `stale` the ids of runs made by older
    code, `figures` the folder of drawn figures, `files` finds the files of a run.
    """

    register: Register
    definitions: Mapping[int, TableDefinition]
    tables: Mapping[int, Sequence[Table]]
    records: Mapping[str, Mapping[str, Any]]
    stale: Collection[str]
    figures: Path
    files: Callable[[str], RunFiles]
    before: Before | None = None


@dataclass(frozen=True)
class Fullness:
    """How many of a table's planned runs are done, and how many failed."""

    done: int
    failed: int
    planned: int

    @property
    def missing(self) -> int:
        """Nobody has carried them out."""
        return self.planned - self.done - self.failed


def fullness(table: Table) -> Fullness:
    """Counts each planned run once, however many cells share it."""
    planned = {run_id for runs in table.planned.values() for _, run_id in runs}
    done = sum(record["status"] == "done" for record in table.records.values())
    return Fullness(done, len(table.records) - done, len(planned))


def page_stem(table: Table) -> str:
    """`table-12.small`, the name of a table's page and of the folder beside it."""
    return f"{file_stem(table)}.{table.tier}"


def run_file(run_id: str) -> str:
    """The file name of a run's page; an id is letters and digits, whatever a ledger line says."""
    return re.sub(r"[^0-9A-Za-z_-]", "-", run_id) + ".html"


def line_name(line: Line, axis: str | None) -> str:
    """`OT Mean Flow, exact (NFE 1)`."""
    return line.row.label if line.at is None else f"{line.row.label} ({axis} {line.at})"


def metric_name(line: Line, column: Column) -> str:
    """The name a score has in the ledger: `w2`, or `w2@1` at a point of the evaluation axis."""
    return str(column.metric) if line.at is None else f"{column.metric}@{line.at}"


class Settings:
    """The settings of runs as text; runs that differ in the seed alone share one."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], str]]] = {}

    def __call__(self, record: Mapping[str, Any]) -> str:
        """An indented outline without the seed, one setting a line, keys sorted."""
        spec = {key: value for key, value in (record.get("spec") or {}).items() if key != "seed"}
        key = (record.get("task"), record.get("method"), record.get("tier"))
        known = self._known.setdefault(key, [])
        for other, text in known:
            if other == spec:
                return text
        known.append((spec, outline(spec)))
        return known[-1][1]


def outline(settings: Mapping[str, Any], depth: int = 0) -> str:
    """Nested settings, one a line, indented by two spaces a level."""
    lines = []
    for key in sorted(settings, key=str):
        value = settings[key]
        if isinstance(value, dict) and value:
            lines.append(f"{'  ' * depth}{key}:\n{outline(value, depth + 1)}")
        else:
            written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"{'  ' * depth}{key}: {written}\n")
    return "".join(lines)


def duration(seconds: float) -> str:
    """`21 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def commit(record: Mapping[str, Any]) -> str:
    """The short commit, with a plus where the tree had changes."""
    provenance = record.get("provenance") or {}
    mark = "+" if provenance.get("dirty") else ""
    return f"{str(provenance.get('commit') or 'unknown')[:10]}{mark}"


def outcome(record: Mapping[str, Any]) -> str:
    """`done` or `failed (oom)`."""
    if record["status"] == "done":
        return "done"
    return f"failed ({record.get('reason', 'error')})"
