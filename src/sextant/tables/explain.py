"""Everything behind one cell: its runs, their settings and origins, and how to make it again."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from sextant.runs.spec import run_command
from sextant.tables.reading import TableError
from sextant.tables.records import metric_name, outcome, settings_of
from sextant.tables.schema import Column, Line
from sextant.tables.table import Table
from sextant.tables.texts import cell_text, seed_list


def explain(table: Table, row: str, column: str) -> str:
    """What stands behind a cell, as text.

    Args:
        row: a row, or `row@point` for one point of the evaluation axis; a row alone shows every
            point, since one run gives them all.
        column: a column, or an average over columns.

    Raises:
        TableError: there is no such row or column; the nearest name is given.
    """
    definition = table.definition
    lines = [line for line in definition.lines if row in (line.key, line.row.key)]
    if not lines:
        names = [r.key for r in definition.rows] + [line.key for line in definition.lines]
        raise _unknown(table, "row", row, list(dict.fromkeys(names)))
    columns = {c.key: c for c in definition.all_columns}
    if column not in columns:
        raise _unknown(table, "column", column, list(columns))
    chosen, holes = columns[column], lines[0].row.not_applicable
    out = [f"table {definition.number} ({definition.id}), {lines[0].row.label}, {chosen.label}"]
    for line in lines:
        cell = table.cells[line.key, column]
        text = cell_text(cell, chosen)
        printed = f"; {text.printed}" if text.printed else ""
        out.append(f"  {line.key}: {text.whole}  [{cell.state}, {cell.n}/{cell.planned}]{printed}")
    lines = [line for line in lines if definition.fills(line, chosen)]
    if not lines:
        parts = [columns[key] for key in (column, *chosen.over)]
        reasons = [f"{part.key}: {holes[part.key]}" for part in parts if part.key in holes]
        reasons += [f"{part.key} is scored at {_points(table, part)}" for part in parts if part.at]
        return "\n".join([*out, f"  not applicable: {'; '.join(reasons)}"]) + "\n"
    for part in [columns[key] for key in chosen.over] or [chosen]:
        out += ["", *_runs(table, lines, part)]
    return "\n".join(out) + "\n"


def _points(table: Table, column: Column) -> str:
    return f"{table.definition.axis} {', '.join(map(str, column.at))} only"


def _unknown(table: Table, what: str, got: str, allowed: list[str]) -> TableError:
    close = difflib.get_close_matches(got, allowed, n=1, cutoff=0.3)
    hint = f"; nearest match: {close[0]}" if close else ""
    listed = ", ".join(allowed)
    return TableError(
        f"table {table.definition.number} has no {what} {got!r}; allowed: {listed}{hint}"
    )


def _runs(table: Table, lines: list[Line], column: Column) -> list[str]:
    row = lines[0].row
    out = [f"task {column.task}, method {row.method}, tier {table.tier}"]
    shared: dict[str, list[int]] = {}
    for seed, run_id in table.planned[row.key, column.key]:
        record = table.records.get(run_id)
        if record is None:
            out.append(f"  seed {seed}  {run_id}  missing")
        else:
            out.append(f"  seed {seed}  {run_id}  {_outcome(record, lines, column)}")
            shared.setdefault(_settings(record), []).append(seed)
            out += [f"    {line}" for line in _origin(record)]
        out.append(f"    {run_command(column.task, row.method, table.tier, seed)}")
    for text, seeds in shared.items():
        out.append(f"  settings of {seed_list(seeds)}:")
        out += [f"    {line}" for line in text.splitlines()]
    return out


def _outcome(record: Mapping[str, Any], lines: list[Line], column: Column) -> str:
    if record["status"] != "done":
        message = record.get("message")
        return outcome(record) + (f": {message}" if message else "")
    scores = []
    for line in lines:
        metric = metric_name(line, column)
        score = record["scores"].get(metric)
        if score is None:
            scores.append(f"{metric} not scored")
            continue
        error = score.get("standard_error")
        spread = f", standard error {error:.{column.digits}g}" if error is not None else ""
        scores.append(f"{metric} = {score['value']:.6g} (on {score.get('n')}{spread})")
    return f"done  {', '.join(scores)}"


def _origin(record: Mapping[str, Any]) -> list[str]:
    provenance = record.get("provenance") or {}
    hardware = provenance.get("hardware") or {}
    commit = str(provenance.get("commit") or "unknown")
    dirty = ", with uncommitted changes" if provenance.get("dirty") else ""
    machine = hardware.get("gpu") if provenance.get("device") == "gpu" else hardware.get("cpu")
    machine = ", ".join(filter(None, (machine, " ".join(hardware.get("instructions", [])))))
    memory = record.get("peak_memory_mb")
    out = [f"commit {commit}{dirty}"]
    for name, fingerprint in sorted((provenance.get("data") or {}).items()):
        out.append(f"data {name}: {fingerprint}")
    packages = provenance.get("packages") or {}
    out.append("packages " + ", ".join(f"{name} {packages[name]}" for name in sorted(packages)))
    peak = f", {memory:.0f} MB at most" if memory is not None else ""
    out.append(
        f"{record.get('seconds') or 0:.1f} s on {provenance.get('device', 'cpu')} "
        f"({machine or 'unknown machine'}){peak}"
    )
    if record.get("former_ids"):
        out.append("formerly run " + ", ".join(record["former_ids"]))
    parents = record.get("parents") or []
    if parents:
        listed = parents.items() if isinstance(parents, Mapping) else enumerate(parents)
        out.append("starts from " + ", ".join(str(parent) for _, parent in listed))
    return out


def _settings(record: Mapping[str, Any]) -> str:
    """The settings as YAML without the seed, so that runs of one cell share them."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(settings_of(record), Dumper=dumper, sort_keys=True, allow_unicode=True)
