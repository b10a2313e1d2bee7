"""What the page of a run shows, and the list of all runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sextant.runs.ledger import Summary
from sextant.runs.spec import run_command
from sextant.tables.records import Record, run_file, run_name
from sextant.tables.report.charts import Points, curve_chart
from sextant.tables.report.contents import Report, settings_text
from sextant.tables.texts import ARROWS, page_stem
from sextant.words import duration


@dataclass(frozen=True)
class Use:
    """A cell of a table that asks for a run: the page, the cell's name there, what to call it, and
    the runs of its other seeds."""

    page: str
    cell: str
    text: str
    seeds: tuple[tuple[int, str], ...]


def uses_of_runs(report: Report) -> dict[str, list[Use]]:
    """The cells that ask for each run of the ledger."""
    found: dict[str, list[Use]] = {}
    for table in (table for tables in report.tables.values() for table in tables):
        rows = {row.key: row.label for row in table.definition.rows}
        columns = {column.key: column.label for column in table.definition.columns}
        for (row, column), runs in table.planned.items():
            seeds = tuple(entry for entry in runs if entry[1] in table.records)
            name = f"Table {table.definition.number}, tier {table.tier}"
            text = f"{name}: {rows[row]}, {columns[column]}"
            use = Use(f"{page_stem(table)}.html", f"{row}/{column}", text, seeds)
            for _, run_id in seeds:
                found.setdefault(run_id, []).append(use)
    return found


def run_view(
    report: Report,
    record: Record,
    uses: Sequence[Use],
    children: Sequence[str],
    curves: Mapping[str, Points],
    pictures: Sequence[str],
) -> dict[str, Any]:
    """The view of a run's page.

    Args:
        uses: the cells that ask for it.
        children: ids of runs that start from it.
        curves: its learning curves by metric, empty where they are not on this machine.
        pictures: its pictures as files below the site's top folder.
    """
    provenance = record.get("provenance") or {}
    commit = str(provenance.get("commit") or "unknown")
    commit += ", with uncommitted changes" if provenance.get("dirty") else ""
    return {
        "record": record,
        "name": run_name(record),
        "uses": uses,
        "siblings": [
            (seed, run_file(run_id))
            for seed, run_id in (uses[0].seeds if uses else ())
            if run_id != record["run_id"]
        ],
        "stale": record["run_id"] in report.stale,
        "scores": list(_scores(record)),
        "whole_commit": commit,
        "origin": list(_origin(record, provenance)),
        "relatives": [
            ("Starts from", _links(report, record.get("parents") or ())),
            ("Start from it", _links(report, children)),
        ],
        "again": run_command(*(record[key] for key in ("task", "method", "tier", "seed"))),
        "charts": [
            curve_chart(metric, f"last {points[-1][1]:.4g}", [points])
            for metric, points in curves.items()
        ],
        "pictures": [(file, file.rsplit("/", 1)[-1]) for file in pictures],
        "settings": settings_text(record),
    }


def _scores(record: Record) -> Iterator[tuple[str, str, str, object]]:
    """Metric with its better direction, value, standard error, and over how many it was taken."""
    for metric, score in (record.get("scores") or {}).items():
        error = score.get("standard_error")
        better = ARROWS.get(str(score.get("better")), "")
        spread = "–" if error is None else f"{error:.2g}"
        yield f"{metric} {better}", f"{score['value']:.6g}", spread, score.get("n", "")


def _origin(record: Record, provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hardware, packages = provenance.get("hardware") or {}, provenance.get("packages") or {}
    device, memory = provenance.get("device") or "cpu", record.get("peak_memory_mb")
    machine = hardware.get("gpu" if device == "gpu" else "cpu") or "unknown"
    for name, fingerprint in sorted((provenance.get("data") or {}).items()):
        yield f"Data {name}", fingerprint
    yield "Time", f"{duration(float(record.get('seconds') or 0.0))} on {device}"
    yield "Machine", f"{machine}, {hardware.get('cores', '?')} cores"
    yield "Memory", "not measured" if memory is None else f"{memory:.0f} MB at most"
    yield "Packages", ", ".join(f"{name} {packages[name]}" for name in sorted(packages))


def _links(report: Report, run_ids: Sequence[str]) -> list[tuple[str | None, str]]:
    """The page and name of each run; no page where the ledger lacks it."""
    found = [(str(run_id), report.records.get(str(run_id))) for run_id in run_ids]
    return [
        (run_file(run_id), run_name(record)) if record else (None, run_id)
        for run_id, record in found
    ]


def runs_view(report: Report, uses: Mapping[str, Sequence[Use]]) -> dict[str, Any]:
    """Every run of the ledger by task, then by method and tier."""
    tasks: dict[str, dict[tuple[str, str], list[Summary]]] = {}
    for run in report.runs.values():
        tasks.setdefault(run.task, {}).setdefault((run.method, run.tier), []).append(run)
    return {"runs": report.runs, "paged": report.records, "tasks": tasks, "uses": uses}
