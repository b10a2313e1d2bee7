"""What a report is made from, and the few facts that several of its pages tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sextant.runs.ledger import Summary
from sextant.tables.records import Record, settings_of
from sextant.tables.register import Register
from sextant.tables.schema import TableDefinition
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
    tier first. `runs` is the whole ledger in brief; `records` are the lines of the runs that have
    a page, those that tables show and those they start from. `stale` are the ids of runs made by
    older code, `figures` the folder of drawn figures; `files` finds the files of a run.
    """

    register: Register
    definitions: Mapping[int, TableDefinition]
    tables: Mapping[int, Sequence[Table]]
    runs: Mapping[str, Summary]
    records: Mapping[str, Record]
    stale: Collection[str]
    figures: Path
    files: Callable[[str], RunFiles]
    before: Before | None = None


JSON = json.JSONEncoder(ensure_ascii=False)


def settings_text(record: Record) -> str:
    """The settings of a run without its seed, so that the runs of a cell share them."""
    return _settings_text(JSON.encode(settings_of(record)))


@lru_cache(maxsize=1024)
def _settings_text(settings: str) -> str:
    return outline(json.loads(settings))


def outline(settings: Mapping[str, Any], depth: int = 0) -> str:
    """Nested settings, one a line, indented by two spaces a level."""
    lines = []
    for key in sorted(settings, key=str):
        value = settings[key]
        if isinstance(value, dict) and value:
            lines.append(f"{'  ' * depth}{key}:\n{outline(value, depth + 1)}")
        else:
            written = value if isinstance(value, str) else JSON.encode(value)
            lines.append(f"{'  ' * depth}{key}: {written}\n")
    return "".join(lines)
