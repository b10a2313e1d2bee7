"""What opens behind a cell; templates/cell.html lays it out.

One script file a row holds the views of its cells, loaded when the first of them is opened; a page
read from a disk may load scripts but not fetch data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sextant.runs.spec import run_command
from sextant.tables.records import Record, commit, metric_name, outcome
from sextant.tables.report.charts import CurveChart, Points, curve_chart
from sextant.tables.report.contents import Report, settings_text
from sextant.tables.report.table_page import Curves
from sextant.tables.schema import Column, Line, Row
from sextant.tables.table import Table
from sextant.tables.templating import render, script
from sextant.tables.texts import printed_text, seed_list
from sextant.words import duration


def row_script(report: Report, table: Table, row: Row, curves: Curves) -> str:
    """The views of all cells of a row, as the script that hands them to the page.

    Args:
        curves: gives the curves of a run by metric.
    """
    definition = table.definition
    views = {}
    for column in definition.all_columns:
        lines = [n for n in definition.lines if n.row is row and definition.fills(n, column)]
        if lines:
            own = (
                _average(table, lines, column)
                if column.over
                else _runs(report, table, lines, column, curves)
            )
            printed = list(_printed(table, lines, column))
            views[column.key] = render(
                "cell.html", table=table, row=row, column=column, printed=printed, **own
            )
    return script(row.key, views)


def _average(table: Table, lines: Sequence[Line], column: Column) -> dict[str, Any]:
    labels = {c.key: c.label for c in table.definition.columns}
    cells = [table.cells[line.key, column.key] for line in lines]
    return {
        "averaged": [labels[key] for key in column.over],
        "averages": [entry for cell in cells for entry in cell.values.items()],
    }


def _runs(
    report: Report, table: Table, lines: Sequence[Line], column: Column, curves: Curves
) -> dict[str, Any]:
    """The view of a row's cell, all points of the evaluation axis together: they share the runs."""
    row = lines[0].row
    planned = table.planned[row.key, column.key]
    done = {seed: table.records[run] for seed, run in planned if run in table.records}
    metrics = [metric_name(line, column) for line in lines]
    return {
        "metrics": metrics,
        "runs": [
            (seed, run_id, _run(report, done[seed], metrics) if seed in done else None)
            for seed, run_id in planned
        ],
        "origins": _origins(done),
        "commands": [run_command(column.task, row.method, table.tier, seed) for seed, _ in planned],
        "charts": list(_charts({seed: curves(str(r["run_id"])) for seed, r in done.items()})),
        "settings": _settings(done),
    }


def _printed(
    table: Table, lines: Sequence[Line], column: Column
) -> Iterator[tuple[int | None, str, str | None]]:
    """What the paper prints here and where that was read."""
    for line in lines:
        published = table.cells[line.key, column.key].published
        if published is not None:
            yield line.at, printed_text(published, column.digits), published.source


def _run(report: Report, record: Record, metrics: Sequence[str]) -> dict[str, Any]:
    """How a run ended, what it scored, how long it took and from which commit it is."""
    message = record.get("message")
    old = " · older code" if record["run_id"] in report.stale else ""
    return {
        "ended": f"{outcome(record)}{f': {message}' if message else ''}{old}",
        "scores": [_score(record, metric) for metric in metrics],
        "time": duration(float(record.get("seconds") or 0.0)),
        "commit": commit(record),
    }


def _score(record: Record, metric: str) -> str:
    """A score with its standard error, as far as the run has them."""
    score = (record.get("scores") or {}).get(metric)
    if score is None:
        return "–"
    error = score.get("standard_error")
    return f"{score['value']:.6g}" + (f" (SE {error:.2g})" if error is not None else "")


def _origins(done: Mapping[int, Record]) -> list[tuple[str, str]]:
    """Data and packages, each once with the seeds that share it."""
    shared: dict[tuple[str, str], list[int]] = {}
    for seed, record in done.items():
        provenance = record.get("provenance") or {}
        for name, fingerprint in sorted((provenance.get("data") or {}).items()):
            shared.setdefault((f"Data {name}", str(fingerprint)), []).append(seed)
        packages = provenance.get("packages") or {}
        listed = ", ".join(f"{name} {packages[name]}" for name in sorted(packages))
        shared.setdefault(("Packages", listed), []).append(seed)
        starts = ", ".join(str(parent) for parent in record.get("parents") or ())
        if starts:
            shared.setdefault(("Starts from", starts), []).append(seed)
    return [
        (f"{name} ({seed_list(seeds)})" if len(seeds) < len(done) else name, value)
        for (name, value), seeds in shared.items()
    ]


def _charts(by_seed: Mapping[int, Mapping[str, Points]]) -> Iterator[CurveChart]:
    """One chart a metric, the seeds over one another."""
    for metric in dict.fromkeys(name for by_metric in by_seed.values() for name in by_metric):
        seeds = [seed for seed, by_metric in by_seed.items() if metric in by_metric]
        yield curve_chart(metric, seed_list(seeds), [by_seed[seed][metric] for seed in seeds])


def _settings(done: Mapping[int, Record]) -> list[tuple[str, list[int]]]:
    """The settings, each text once with the seeds that share it."""
    shared: dict[str, list[int]] = {}
    for seed, record in done.items():
        shared.setdefault(settings_text(record), []).append(seed)
    return list(shared.items())
