"""Writes a table for people and tools: terminal, Markdown, TeX, CSV, json."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sextant.tables.schema import TIERS
from sextant.tables.table import Table, to_json
from sextant.tables.templating import render
from sextant.tables.texts import (
    SYMBOLS,
    cell_text,
    column_note,
    file_stem,
    footers,
    groups,
    row_label,
    subtitle,
    title,
)

if TYPE_CHECKING:
    from rich.console import Console

CSV_FIELDS = (
    *("row", "method", "at", "column", "task", "metric", "better", "mean", "std", "n", "planned"),
    *("state", "printed", "printed_std", "verdict", "tier"),
)


def terminal(table: Table, console: Console | None = None) -> None:
    """Prints the table; without a terminal it is 120 characters wide and without colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    definition = table.definition
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    grid.add_column("", no_wrap=False, min_width=16)
    for column in definition.all_columns:
        header = Text(f"{column.label}\n{column_note(column)}", justify="right")
        grid.add_column(header, justify="right", vertical="bottom")
    for point, name, lines in groups(table):
        if definition.axis is not None:
            grid.add_row(Text(name, style="italic"))
        best = {c.key: table.best(c, point) for c in definition.all_columns}
        for line in lines:
            row = [Text(row_label(line.row), style="dim" if line.row.reference else "")]
            for column in definition.all_columns:
                shown = cell_text(table.cells[line.key, column.key], column)
                cell = Text(justify="right")
                cell.append(shown.ours, style="bold" if line.key in best[column.key] else "")
                whole = re.fullmatch(r"\(\d+/\d+\)", shown.mark)
                cell.append(f" {shown.mark}" if shown.mark else "", "dim" if whole else "yellow")
                cell.append(f"\n{shown.printed}" if shown.printed else "", style="dim")
                row.append(cell)
            grid.add_row(*row)
        grid.add_section()
    console.print(Text(title(table), style="bold"))
    console.print(Text(subtitle(table)))
    console.print(grid)
    for claim in table.claims:
        console.print(
            Text(f"{SYMBOLS[claim.status]} {claim.status.replace('_', ' ')}: {claim.text}")
        )
        console.print(Text(f"  {claim.figure}", style="dim"))
    for heading, items in footers(table):
        shown = [f"{heading}: {items[0]}"] if len(items) == 1 else [f"{heading}:"]
        shown += [f"  - {item}" for item in items] if len(items) > 1 else []
        console.print(Text("\n".join(shown), style="dim"))


def markdown(table: Table) -> str:
    """The table as a GitHub-flavoured Markdown page."""
    return render("table.md", table=table)


def latex(table: Table) -> str:
    """The table as a TeX float, on its side beyond six columns; claims and notes stand apart."""
    printed = {
        cell.line
        for cell in table.cells.values()
        if cell.published is not None and cell.published.word not in ("NA", "not found")
    }
    return render("table.tex", table=table, printed=printed)


def comma_separated(table: Table) -> str:
    """One line a cell, for spreadsheets: full precision, empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    columns = {column.key: column for column in table.definition.all_columns}
    lines = {line.key: line for line in table.definition.lines}
    for cell in table.cells.values():
        line, column, printed = lines[cell.line], columns[cell.column], cell.published
        number = printed.word or printed.mean if printed else None
        fields = [
            *(line.row.key, line.row.method, line.at, column.key, column.task, column.metric),
            *(column.better, cell.mean, cell.std, cell.n, cell.planned, cell.state),
            *(number, printed.std if printed else None, cell.verdict, table.tier),
        ]
        writer.writerow(["" if value is None else value for value in fields])
    return out.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "json": to_json,
}


def write_all(table: Table, folder: Path) -> list[Path]:
    """Writes `table-NN.<tier>.{md,tex,csv,json}`, and `table-NN.*` as a copy of the highest tier
    that has results in the folder (of this tier, while none has).

    Each file appears whole or not at all, and only when its content changed, so rendering again
    leaves an unchanged folder.

    Returns:
        The paths, in the order of FORMATS, tier files first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(table)
    paths = [folder / f"{stem}.{table.tier}.{ending}" for ending in FORMATS]
    for path, write in zip(paths, FORMATS.values(), strict=True):
        _write(path, write(table))
    filled = [tier for tier in TIERS if _has_results(folder, stem, tier)]
    chosen = filled[-1] if filled else table.tier
    for ending in FORMATS:
        source = folder / f"{stem}.{chosen}.{ending}"
        path = folder / f"{stem}.{ending}"
        _write(path, source.read_text(encoding="utf-8"))
        paths.append(path)
    return paths


def _has_results(folder: Path, stem: str, tier: str) -> bool:
    try:
        content = json.loads((folder / f"{stem}.{tier}.json").read_text(encoding="utf-8"))
        return any(cell["n"] for cell in content["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # absent, or damaged by hand: rendering that tier again mends it


def _write(path: Path, page: str) -> None:
    content = page.encode()
    if path.is_file() and path.read_bytes() == content:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
