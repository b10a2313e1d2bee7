"""What the parts of a table file must not say of each other: each rule yields every fault, at its
place below the part that the rule is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sextant.schemas import Fault, Location, unknown_name
from sextant.tables.entries import (
    ALL,
    AverageEntry,
    ClaimEntry,
    ColumnEntry,
    Evaluations,
    FigureEntry,
    Margins,
    PaperEntry,
    RowEntry,
    grid_of,
)
from sextant.tables.schema import Claim, Grid, Margin, Published

Columns = Mapping[str, ColumnEntry]
Averages = Mapping[str, AverageEntry]
Rows = Mapping[str, RowEntry]


def columns(said: Columns, evaluations: Evaluations | None) -> Iterator[Fault]:
    """Points of the evaluation axis are points of the table."""
    points = evaluations.at if evaluations else ()
    for key, column in said.items():
        for point in column.at:
            if point not in points:
                yield (key, "at"), unknown_name("names the point", str(point), points)


def averages(said: Averages, columns: Columns) -> Iterator[Fault]:
    """An average is over columns that can be averaged."""
    for key, average in said.items():
        if key in columns:
            yield (key,), "has the name of a column"
        parts = [columns[name] for name in average.over if name in columns]
        for name in average.over:
            if name not in columns:
                yield (key, "over"), unknown_name("names the column", name, columns)
        if len({part.better for part in parts}) > 1:
            yield (key, "over"), "mixes columns where higher and where lower is better"
        if any(part.target is not None for part in parts):
            yield (key, "over"), "names a column with a target, whose average says nothing"


def rows(
    said: Rows, evaluations: Evaluations | None, columns: Columns, summary: Averages
) -> Iterator[Fault]:
    """A row has points where the table has an axis, and holes in columns that there are; what an
    average is relative to is a row that fills its columns, in a table without an axis."""
    for key, average in summary.items():
        base = average.relative_to
        if base is None:
            continue
        if base not in said:
            yield (base,), f"is named by summary.{key}.relative_to, but there is no such row"
        elif evaluations is not None or set(said[base].not_applicable) & set(average.over):
            yield (
                (base,),
                f"must fill the columns of summary.{key}, at no points, to be relative to",
            )
    for key, row in said.items():
        if row.at and evaluations is None:
            yield (key, "at"), "is given, but the table has no evaluations"
        for name in row.not_applicable:
            if name not in columns:
                says = unknown_name("names the column", name, columns)
                yield (key, "not_applicable"), says


def margins(said: Margins | None, columns: Columns, summary: Averages) -> Iterator[Fault]:
    """Margins of their own belong to columns that there are."""
    allowed = ["absolute", "because", *columns, *summary]
    for name in said.own if said else ():
        if name not in allowed:
            yield (), unknown_name("names the column", name, allowed)


def published(
    said: Mapping[str, Mapping[str, Published]],
    paper: PaperEntry,
    margin: Margins | None,
    evaluations: Evaluations | None,
    columns: Columns,
    summary: Averages,
    rows: Rows,
) -> Iterator[Fault]:
    """Printed values are in cells that there are, with a margin, and as many as the paper has."""
    grid = grid_of(evaluations, columns, summary, rows)
    margins = margin.of(grid.all_columns) if margin else {}
    names = [column.key for column in grid.all_columns]
    printed = False
    for line, cells in said.items():
        yield from _line_fault((), line, grid)
        for name, cell in cells.items():
            # 'not found' says that a cell exists and could not be read, as even a layout may know
            printed |= cell.word != "not found"
            if name not in names:
                yield (line,), unknown_name("names the column", name, names)
            elif cell.mean is not None and name not in margins:
                yield (line, name), "is a printed value, but margin says none for its column"
    if paper.printed == "none" and printed:
        yield (), "has values, but paper.printed is none"
    if paper.printed != "none" and not printed:
        yield (), f"is empty, but paper.printed is {paper.printed}"


def claims(
    said: Mapping[str, ClaimEntry],
    margin: Margins | None,
    evaluations: Evaluations | None,
    columns: Columns,
    summary: Averages,
    rows: Rows,
) -> Iterator[Fault]:
    """A claim compares cells that there are and count, with a margin where it needs one."""
    grid = grid_of(evaluations, columns, summary, rows)
    margins = margin.of(grid.all_columns) if margin else {}
    for key, entry in said.items():
        faults = list(_names_in_claim(entry, grid))
        if not faults:
            faults = list(_comparison(entry.claim(key, grid), grid, margins))
        yield from (((key, *place), says) for place, says in faults)


def figures(said: Mapping[str, FigureEntry], rows: Rows) -> Iterator[Fault]:
    """A figure shows rows that there are."""
    for key, figure in said.items():
        for name in figure.rows:
            if figure.rows != ALL and name not in rows:
                yield (key, "rows"), unknown_name("names the row", name, ["all", *rows])


def _names_in_claim(entry: ClaimEntry, grid: Grid) -> Iterator[Fault]:
    than = entry.than.names
    for name in than:
        yield from _line_fault(("than",), name, grid, counted=True)
    for name in () if entry.every.rows == ALL else entry.every.rows:
        yield from _line_fault(("every", "rows"), name, grid, counted=True)
        if name in than:
            yield ("every", "rows"), f"compares {name} with itself"
    names = ["all", *(column.key for column in grid.all_columns)]
    for name in entry.every.columns:
        if name not in names:
            yield ("every", "columns"), unknown_name("names the column", name, names)


def _line_fault(place: Location, name: str, grid: Grid, counted: bool = False) -> Iterator[Fault]:
    """A line is named as `row` or `row@point`; claims count no reference rows."""
    by_key = {line.key: line for line in grid.lines}
    points = [line.key for line in grid.lines if line.row.key == name]
    if name in by_key:
        if counted and by_key[name].row.reference:
            yield place, f"names {name}, a reference row, which claims never count"
    elif points:
        says = f"names the row {name!r} without a point of the evaluation axis"
        yield place, f"{says}; allowed: {', '.join(points)}"
    else:
        yield place, unknown_name("names the row", name, by_key)


def _comparison(claim: Claim, grid: Grid, margins: Mapping[str, Margin]) -> Iterator[Fault]:
    by_line = {line.key: line for line in grid.lines}
    asked = [column for column in grid.all_columns if column.key in claim.columns]
    compares = any(
        all(grid.fills(by_line[line], column) for line in (left, *right))
        for column in asked
        for left in claim.rows
        for right in ([(name,) for name in claim.than_rows] or [()])
    )
    if not compares:
        yield (), "compares no cells"
    if claim.relation == "at_least_as_good_as" and claim.margin is None:
        for column in asked:
            if column.key not in margins:
                says = f"at_least_as_good_as needs a margin for column {column.key}"
                yield (), f"lacks a margin: {says}, here or in the table's margin"
