"""Tables of the benchmarks beside this file: printed on a terminal, saved as markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

Shown = Table | str


def table_of(title: str, first: str, numbers: list[str]) -> Table:
    """An empty table: one column of words, then right-aligned numbers."""
    table = Table(first, title=title)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def markdown(shown: Shown) -> str:
    """A printed table or sentence as markdown."""
    if isinstance(shown, str):
        return f"{shown}\n"
    headings = [str(column.header) for column in shown.columns]
    marks = [":---", *["---:"] * (len(headings) - 1)]
    cells = zip(*(column.cells for column in shown.columns), strict=True)
    lines = [f"| {' | '.join(line)} |" for line in (headings, marks, *cells)]
    return "\n".join([f"## {shown.title}", "", *lines, ""])


def show(tables: Iterator[Shown], heading: str, save: Path | None) -> None:
    """Prints tables as they come; at the end a file, where one is named, has them all."""
    console, saved = Console(width=110), [heading]
    for shown in tables:
        console.print(shown)
        saved.append(markdown(shown))
    if save is not None:
        save.write_text("\n".join(saved))
