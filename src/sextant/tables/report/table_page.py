"""What the page of a table at one tier shows; templates/table.html lays it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sextant.tables.report.charts import Frame, Points, bar_charts
from sextant.tables.schema import Column, Line, Row
from sextant.tables.table import Table
from sextant.tables.texts import guarded, title

VERDICTS = {"reproduced": "✓", "agrees": "✓", "differs": "✗", "inconclusive": "?"}
POINTS_ON_A_PAGE = 24_000
METRICS_SHOWN = 2
Curves = Callable[[str], Mapping[str, Points]]
Pictures = Callable[[str], Sequence[tuple[str, int]]]


def table_view(
    table: Table,
    tiers: Sequence[Table],
    curves: Curves,
    figures: Mapping[str, str],
    pictures: Pictures,
) -> dict[str, Any]:
    """The view of a table's page.

    Args:
        tiers: the same table at every tier that has a page, this one among them.
        curves: gives the curves of a run by metric.
        figures: by key, the figures that are drawn, as files below the site's top folder.
        pictures: the pictures of a run as (file below the top folder, digest of its content).
    """
    columns = table.definition.all_columns
    printed = any(cell.published for cell in table.cells.values())
    by_task = _first_curves(table, curves)
    drawn = sum(len(rows) for rows in by_task.values()) * METRICS_SHOWN
    multiples = {task: list(_multiples(table, rows)) for task, rows in by_task.items()}
    return {
        "table": table,
        "heading": title(table),
        "tiers": tiers,
        "idle_tiers": [t for t in table.definition.seeds if t not in {o.tier for o in tiers}],
        "printed": printed,
        "legend": _legend(table, printed),
        **_grid(table, columns),
        "bars": bar_charts(table),
        "multiples": {task: metrics for task, metrics in multiples.items() if metrics},
        "tasks_without_curves": not all(multiples.values()),
        "points_each": max(8, min(48, POINTS_ON_A_PAGE // max(1, drawn))),
        "figures": figures,
        "samples": list(_samples(table, pictures)),
    }


def _grid(table: Table, columns: Sequence[Column]) -> dict[str, Any]:
    """Where the columns stand: one that the paper prints anything in has the paper's beside it."""
    beside = {cell.column for cell in table.cells.values() if cell.published is not None}
    places, index = [], 1
    for column in columns:
        places.append((column, index))
        index += 2 if column.key in beside else 1
    return {
        "columns": places,
        "beside": beside,
        "why_empty": why_empty,
        "VERDICTS": VERDICTS,
    }


def why_empty(table: Table, line: Line, column: Column) -> str:
    """Why a line cannot fill a column."""
    reasons = line.row.not_applicable
    found = [reasons[key] for key in (column.key, *column.over) if key in reasons]
    return "; ".join(found) or f"not scored at this {table.definition.axis}"


def _legend(table: Table, printed: bool) -> list[str]:
    """What the marks of this table mean."""
    notes = ["A cell opens its runs; heads sort; bold is the best of its group."]
    notes.append("k/N seeds are done of N planned, ! where some are lacking.")
    notes += [f"‡ has {meaning}." for meaning in guarded(table)]
    if printed and table.tier != "paper":
        notes.append("Printed values get a verdict at tier paper only.")
    return notes


def _first_runs(table: Table) -> Iterator[tuple[str, str, int, str]]:
    """Row, column, seed and id of the first run of each cell that is in the ledger."""
    for (row, column), runs in table.planned.items():
        for seed, run_id in runs:
            if run_id in table.records:
                yield row, column, seed, run_id
                break


def _first_curves(table: Table, curves: Curves) -> dict[str, dict[str, Mapping[str, Points]]]:
    """By task and row, the curves of the first run."""
    tasks = {column.key: str(column.task) for column in table.definition.columns}
    found: dict[str, dict[str, Mapping[str, Points]]] = {tasks[c]: {} for _, c in table.planned}
    for row, column, _, run_id in _first_runs(table):
        if row not in found[tasks[column]]:
            found[tasks[column]][row] = curves(run_id)
    return found


def _multiples(
    table: Table, rows: Mapping[str, Mapping[str, Points]]
) -> Iterator[tuple[str, Frame, list[tuple[Row, Points]]]]:
    """Small multiples of a task's commonest metrics: a chart a row, axes shared within a metric."""
    counts = Counter(metric for by_metric in rows.values() for metric in by_metric)
    by_key = {row.key: row for row in table.definition.rows}
    for metric, _ in counts.most_common(METRICS_SHOWN):
        found = [
            (by_key[key], by_metric[metric])
            for key, by_metric in rows.items()
            if metric in by_metric
        ]
        yield metric, Frame([points for _, points in found]), found


def _samples(table: Table, pictures: Pictures) -> Iterator[tuple[str, str]]:
    """The pictures of the first run of each cell with what they show, each picture once."""
    seen = set()
    labels = {row.key: row.label for row in table.definition.rows}
    columns = {column.key: column.label for column in table.definition.columns}
    for row, column, seed, run_id in _first_runs(table):
        for file, digest in pictures(run_id):
            if digest not in seen:
                seen.add(digest)
                name = file.rsplit("/", 1)[-1].removesuffix(".png")
                yield file, f"{labels[row]}, {columns[column]}, seed {seed}: {name}"
