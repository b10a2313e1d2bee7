"""The words of a ledger line, the same for every reader."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sextant.runs.ledger import Summary
from sextant.tables.schema import Column, Line

Record = Mapping[str, Any]


def run_file(run_id: str) -> str:
    """The file name of a run's page; an id is letters and digits, whatever a ledger line says."""
    return re.sub(r"[^0-9A-Za-z_-]", "-", run_id) + ".html"


def settings_of(record: Record) -> dict[str, Any]:
    """The settings without the seed, so that the runs of a cell share them."""
    return {key: value for key, value in (record.get("spec") or {}).items() if key != "seed"}


def commit(record: Record) -> str:
    """The short commit, with a plus where the tree had changes."""
    provenance = record.get("provenance") or {}
    mark = "+" if provenance.get("dirty") else ""
    return f"{str(provenance.get('commit') or 'unknown')[:10]}{mark}"


def outcome(record: Record) -> str:
    """`done` or `failed (oom)`."""
    return Summary.of(record).outcome


def run_name(record: Record) -> str:
    """`generation/moons by flow/ot_exact, seed 0`."""
    return f"{record['task']} by {record['method']}, seed {record['seed']}"


def metric_name(line: Line, column: Column) -> str:
    """The name a score has in the ledger: `w2`, or `w2@1` at a point of the evaluation axis."""
    return str(column.metric) if line.at is None else f"{column.metric}@{line.at}"
