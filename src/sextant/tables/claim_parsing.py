"""Reads the claims of a table file: which cells are compared with which, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sextant.tables.reading import Fields, is_number
from sextant.tables.schema import RELATIONS, Claim, Line, Margin, TableDefinition


def read_claim(key: str, fields: Fields, table: TableDefinition) -> Claim:
    """One claim; `table` is complete but for claims and printed values."""
    than_rows = _than_rows(fields, table)
    rows = _every_row(fields.child("every"), table, than_rows)
    own = fields.child("margin") if "margin" in fields.values else None
    claim = Claim(
        id=key,
        text=fields.text("text"),
        rows=rows,
        columns=_claim_columns(fields.child("every"), table),
        relation=fields.choice("relation", RELATIONS),
        than_rows=than_rows,
        than=None if than_rows else fields.number("than"),
        margin=read_margin(own) if own else None,
    )
    if own:
        own.end()
    fields.raw("margin", None)
    fields.end()
    _check_claim(fields, claim, table)
    return claim


def _than_rows(fields: Fields, table: TableDefinition) -> tuple[str, ...]:
    """The lines compared with; none when `than` is a number."""
    than = fields.raw("than")
    if is_number(than):
        return ()
    if not isinstance(than, Mapping):
        raise fields.problem("than", "must be a number, {row: name} or {rows: [names]}")
    inside = fields.child("than")
    one = "row" in than
    names = (inside.text("row"),) if one else inside.texts("rows")
    inside.end()
    if not names:
        raise fields.problem("than", "must name at least one row")
    return tuple(_counted_line(inside, "row" if one else "rows", name, table) for name in names)


def _every_row(
    fields: Fields, table: TableDefinition, than_rows: tuple[str, ...]
) -> tuple[str, ...]:
    """The lines a claim is about; `all` leaves out reference rows and the lines compared with."""
    if fields.raw("rows") == "all":
        counted = [line.key for line in table.lines if not line.row.reference]
        rows = tuple(name for name in counted if name not in than_rows)
    else:
        rows = tuple(_counted_line(fields, "rows", name, table) for name in fields.texts("rows"))
    for name in rows:
        if name in than_rows:
            raise fields.problem("rows", f"compares {name} with itself")
    return rows


def _counted_line(fields: Fields, name: str, key: str, table: TableDefinition) -> str:
    line = read_line_name(fields, name, key, table.lines)
    if line.row.reference:
        raise fields.problem(name, f"names {key}, a reference row, which claims never count")
    return line.key


def _claim_columns(fields: Fields, table: TableDefinition) -> tuple[str, ...]:
    for name in fields.values:
        if name not in ("rows", "columns"):
            raise fields.unknown("", "has the field", name, ("rows", "columns"))
    if fields.raw("columns") == "all":
        return tuple(column.key for column in table.columns)
    names = [column.key for column in table.all_columns]
    for name in fields.texts("columns"):
        if name not in names:
            raise fields.unknown("columns", "names the column", name, ["all", *names])
    return fields.texts("columns")


def _check_claim(fields: Fields, claim: Claim, table: TableDefinition) -> None:
    by_line = {line.key: line for line in table.lines}
    columns = [column for column in table.all_columns if column.key in claim.columns]
    compares = any(
        all(table.fills(by_line[line], column) for line in (left, *right))
        for column in columns
        for left in claim.rows
        for right in ([(name,) for name in claim.than_rows] or [()])
    )
    if not compares:
        raise fields.problem("", "compares no cells")
    if claim.relation != "at_least_as_good_as" or claim.margin is not None:
        return
    for column in columns:
        if column.key not in table.margins:
            raise fields.problem(
                "margin",
                f"is missing: at_least_as_good_as needs a margin for column {column.key}, "
                "here or in the table's margin",
            )


def read_margin(fields: Fields) -> Margin:
    """A margin: `absolute` above zero, and `because`."""
    margin = Margin(absolute=fields.number("absolute"), because=fields.text("because"))
    if margin.absolute <= 0:
        raise fields.problem("absolute", f"must be above zero, got {margin.absolute:g}")
    return margin


def read_line_name(fields: Fields, name: str, key: object, lines: Iterable[Line]) -> Line:
    """The line a file means by `row` or `row@point`."""
    by_key = {line.key: line for line in lines}
    if key in by_key:
        return by_key[str(key)]
    points = [line.key for line in by_key.values() if line.row.key == key]
    if points:
        wrong = f"names the row {key!r} without a point of the evaluation axis"
        raise fields.problem(name, f"{wrong}; allowed: {', '.join(points)}")
    raise fields.unknown(name, "names the row", key, by_key)
