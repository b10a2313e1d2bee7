"""What opens behind a cell: its runs seed by seed, how to make them again, curves, settings.

One script file a row holds the views of its cells, loaded when the first of them is opened; a page
read from a disk may load scripts but not fetch data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sextant.runs.spec import run_command
from sextant.tables.report.contents import (
    Report,
    Settings,
    commit,
    duration,
    metric_name,
    outcome,
    run_file,
)
from sextant.tables.report.curves import Points, curve_chart
from sextant.tables.report.markup import Markup, command, join, script_value, scrolled, tag
from sextant.tables.schema import Column, Line, Row
from sextant.tables.table import Table
from sextant.tables.texts import printed_text, seed_list

Curves = Callable[[str], Mapping[str, Points]]
Record = Mapping[str, Any]


def row_script(report: Report, table: Table, row: Row, curves: Curves, settings: Settings) -> str:
    """The views of all cells of a row, as the script that hands them to the page.

    Args:
        curves: gives the curves of a run by metric.
        settings: gives the settings of a run as text.
    """
    definition = table.definition
    lines = [line for line in definition.lines if line.row is row]
    views = {}
    for column in definition.all_columns:
        filled = [line for line in lines if definition.fills(line, column)]
        if filled:
            views[column.key] = cell_view(report, table, filled, column, curves, settings)
    return f"sextant.receive({script_value(row.key)},{script_value(views)});\n"


def cell_view(
    report: Report,
    table: Table,
    lines: Sequence[Line],
    column: Column,
    curves: Curves,
    settings: Settings,
) -> Markup:
    """The view of a row's cell, all points of the evaluation axis together: they share the runs."""
    if column.over:
        return _average_view(table, lines, column)
    row = lines[0].row
    planned = table.planned[row.key, column.key]
    done = {seed: table.records[run] for seed, run in planned if run in table.records}
    commands = [run_command(column.task, row.method, table.tier, seed) for seed, _ in planned]
    about = f"Task {column.task}, method {row.method}, tier {table.tier}"
    return join(
        (
            tag("p", about, class_="about"),
            *_printed(table, lines, column),
            _seeds(report, table, lines, column),
            _origins(done),
            tag("h3", "The commands that make them again"),
            command("\n".join(commands)),
            *_curves(done, curves),
            *_settings(done, settings),
        )
    )


def _average_view(table: Table, lines: Sequence[Line], column: Column) -> Markup:
    labels = {c.key: c.label for c in table.definition.columns}
    over = ", ".join(labels[key] for key in column.over)
    rows = [
        tag("tr", tag("th", f"seed {seed}", scope="row"), tag("td", f"{value:.6g}"))
        for line in lines
        for seed, value in table.cells[line.key, column.key].values.items()
    ]
    shown = tag("table", tag("caption", "By seed"), tag("tbody", *rows), class_="plain")
    return join(
        (
            tag("p", f"The average over {over}, for seeds that every one of them has done. "),
            *_printed(table, lines, column),
            shown if rows else tag("p", "No seed has them all yet."),
            tag("p", "The cells of these columns open the runs."),
        )
    )


def _printed(table: Table, lines: Sequence[Line], column: Column) -> list[Markup]:
    """What the paper prints here and where that was read."""
    said = []
    for line in lines:
        published = table.cells[line.key, column.key].published
        if published is not None:
            at = "" if line.at is None else f" at {table.definition.axis} {line.at}"
            source = f" (source: {published.source})" if published.source else ""
            text = f"The paper{at}: {printed_text(published, column.digits)}{source}."
            said.append(tag("p", text, class_="about"))
    return said


def _seeds(report: Report, table: Table, lines: Sequence[Line], column: Column) -> Markup:
    metrics = [metric_name(line, column) for line in lines]
    # a narrow screen shows the first two columns; the others scroll
    names = ["Run", "Outcome", *metrics, "Time", "Commit", "Id"]
    numeric = {*metrics, "Time"}
    heads = [tag("th", n, scope="col", class_="n" if n in numeric else None) for n in names]
    head = tag("tr", *heads)
    rows = []
    for seed, run_id in table.planned[lines[0].row.key, column.key]:
        name, record = f"seed {seed}", table.records.get(run_id)
        if record is None:
            lacking = tag("td", "missing: nobody has run it", colspan=len(names) - 1)
            rows.append(tag("tr", tag("th", name, scope="row"), lacking))
            continue
        link = tag("a", name, href=f"../runs/{run_file(run_id)}")
        old = " · older code" if run_id in report.stale else ""
        said = f": {record['message']}" if record.get("message") else ""
        cells = [
            tag("th", link, scope="row"),
            tag("td", f"{outcome(record)}{said}{old}"),
            *(tag("td", _score(record, metric), class_="n") for metric in metrics),
            tag("td", duration(float(record.get("seconds") or 0.0)), class_="n"),
            tag("td", tag("code", commit(record))),
            tag("td", tag("code", run_id)),
        ]
        rows.append(tag("tr", *cells))
    caption = tag("caption", "Runs by seed")
    whole = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="plain seeds")
    return scrolled(whole, "Runs by seed")


def _score(record: Record, metric: str) -> str:
    score = (record.get("scores") or {}).get(metric)
    if score is None:
        return "–"
    error = score.get("standard_error")
    return f"{score['value']:.6g}" + (f" (SE {error:.2g})" if error is not None else "")


def _origins(done: Mapping[int, Record]) -> Markup | None:
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
    if not shared:
        return None
    entries = []
    for (name, value), seeds in shared.items():
        only = f" ({seed_list(seeds)})" if len(seeds) < len(done) else ""
        entries += [tag("dt", name + only), tag("dd", value)]
    return tag("dl", *entries, class_="facts")


def _curves(done: Mapping[int, Record], curves: Curves) -> list[Markup]:
    found = {seed: curves(str(record["run_id"])) for seed, record in done.items()}
    found = {seed: by_metric for seed, by_metric in found.items() if by_metric}
    if not found:
        sentence = "No curves here: they stay where they were made, and not every task logs any."
        return [tag("p", sentence, class_="absent")] if done else []
    charts = []
    for metric in dict.fromkeys(name for by_metric in found.values() for name in by_metric):
        seeds = [seed for seed, by_metric in found.items() if metric in by_metric]
        caption = tag("span", tag("b", metric), f", {seed_list(seeds)}")
        charts.append(curve_chart([found[seed][metric] for seed in seeds], caption))
    return [tag("h3", "Curves"), tag("div", *charts, class_="charts")]


def _settings(done: Mapping[int, Record], settings: Settings) -> list[Markup]:
    """The settings without the seed, each text once with the seeds that share it."""
    shared: dict[str, list[int]] = {}
    for seed, record in done.items():
        shared.setdefault(settings(record), []).append(seed)
    return [
        tag(
            "details",
            tag("summary", f"Settings of {seed_list(seeds)}"),
            tag("pre", text, tabindex="0"),
        )
        for text, seeds in shared.items()
    ]
