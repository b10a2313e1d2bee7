"""Tables of the benchmarks beside this file: printed on a terminal, saved as markdown."""

from __future__ import annotations

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
