"""Turns the content of a table file into a `TableDefinition`, refusing whatever cannot be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sextant.tables.claim_parsing import read_claim, read_line_name, read_margin
from sextant.tables.reading import Fields, is_number, nearest
from sextant.tables.schema import (
    TIERS,
    WORDS,
    Checkpoint,
    Column,
    Figure,
    Guard,
    Margin,
    Paper,
    Published,
    Row,
    TableDefinition,
)


def parse(file: str, content: object) -> TableDefinition:
    """The definition in a table file.

    Args:
        file: the path messages use.
        content: the YAML value of the file.

    Raises:
        TableError: one sentence naming the file and the field.
    """
    fields = Fields(file, "", content)
    number, identity = fields.integer("number", 1), fields.text("id")
    title, paper = fields.text("title"), _paper(fields.child("paper"))
    axis, at = _evaluations(fields)
    columns = fields.children("columns", lambda key, part: _column(key, part, at))
    if not columns:
        raise fields.problem("columns", "must name at least one column")
    rows = fields.children("rows", lambda key, row: _row(key, row, at, columns))
    if not rows:
        raise fields.problem("rows", "must name at least one row")
    summaries = fields.children("summary", lambda key, part: _summary(key, part, columns))
    margins = _margins(fields, (*columns, *summaries))
    draft = TableDefinition(
        file=file,
        number=number,
        id=identity,
        title=title,
        paper=paper,
        data=_by_tier_text(fields, "data"),
        seeds=_seeds(fields.child("seeds")),
        checkpoint=_checkpoint(fields.child("checkpoint")),
        axis=axis,
        at=at,
        columns=columns,
        summaries=summaries,
        rows=rows,
        published={},
        margins=margins,
        claims=(),
        deviations=fields.texts("deviations"),
        assumptions=fields.texts("assumptions"),
        figures=fields.children("figures", lambda key, part: _figure(key, part, rows)),
    )
    published = _published(fields.child("published", {}), draft)
    claims = fields.children("claims", lambda key, part: read_claim(key, part, draft))
    fields.end()
    _check_printed(fields, paper, published, margins)
    return replace(draft, published=published, claims=claims)


def _paper(fields: Fields) -> Paper:
    paper = Paper(
        key=fields.text("key"),
        where=fields.text("where"),
        printed=fields.choice("printed", ("full", "part", "none")),
        note=fields.text("note", None),
    )
    fields.end()
    return paper


def _by_tier_text(fields: Fields, name: str) -> Mapping[str, str]:
    if not isinstance(fields.raw(name), Mapping):
        return dict.fromkeys(TIERS, fields.text(name))
    inside = fields.child(name)
    texts = {tier: inside.text(tier) for tier in TIERS if tier in inside.values}
    _only_tiers(inside)
    return texts


def _seeds(fields: Fields) -> Mapping[str, tuple[int, ...]]:
    seeds = {tier: fields.integers(tier, 0) for tier in TIERS if tier in fields.values}
    _only_tiers(fields)
    if not seeds:
        raise fields.problem("", f"must give the seeds of at least one tier of {', '.join(TIERS)}")
    return seeds


def _only_tiers(fields: Fields) -> None:
    for name in fields.values:
        if name not in TIERS:
            raise fields.unknown("", "names the tier", name, TIERS)


def _checkpoint(fields: Fields) -> Checkpoint:
    checkpoint = Checkpoint(
        use=fields.choice("use", ("last", "best")),
        because=fields.text("because"),
        by=fields.text("by", None),
    )
    if checkpoint.use == "best" and checkpoint.by is None:
        raise fields.problem("by", "is missing: the best checkpoint needs a validation metric")
    if checkpoint.by is not None and checkpoint.by.startswith("test"):
        raise fields.problem("by", f"is {checkpoint.by!r}, but test data never select anything")
    fields.end()
    return checkpoint


def _evaluations(fields: Fields) -> tuple[str | None, tuple[int, ...]]:
    if "evaluations" not in fields.values:
        fields.raw("evaluations", None)
        return None, ()
    inside = fields.child("evaluations")
    axis, at = inside.text("axis"), inside.integers("at", 0)
    inside.end()
    return axis, at


def _column(key: str, fields: Fields, at: tuple[int, ...]) -> Column:
    points = () if fields.raw("at", None) is None else fields.integers("at", 0)
    for point in points:
        if point not in at:
            raise fields.unknown("at", "names the point", str(point), map(str, at))
    column = Column(
        key=key,
        label=fields.text("label"),
        better=fields.choice("better", ("higher", "lower")),
        digits=fields.integer("digits", 0, 3),
        unit=fields.text("unit", None),
        task=fields.text("task"),
        metric=fields.text("metric"),
        at=points,
        guard=_guard(fields.child("guard")) if "guard" in fields.values else None,
        target=fields.number("target", None),
    )
    fields.end()
    return column


def _guard(fields: Fields) -> Guard:
    guard = Guard(metric=fields.text("metric"), says=fields.text("says"))
    fields.end()
    return guard


def _summary(key: str, fields: Fields, columns: tuple[Column, ...]) -> Column:
    by_key = {column.key: column for column in columns}
    if key in by_key:
        raise fields.problem("", "has the name of a column")
    over = fields.texts("over")
    if len(over) < 2:
        raise fields.problem("over", "must list at least two columns")
    for name in over:
        if name not in by_key:
            raise fields.unknown("over", "names the column", name, by_key)
    directions = {by_key[name].better for name in over}
    if len(directions) > 1:
        raise fields.problem("over", "mixes columns where higher and where lower is better")
    if any(by_key[name].target is not None for name in over):
        raise fields.problem("over", "names a column with a target, whose average says nothing")
    fields.choice("require", ("all",), "all")
    summary = Column(
        key=key,
        label=fields.text("label", key),
        better=directions.pop(),
        digits=fields.integer("digits", 0, max(by_key[name].digits for name in over)),
        unit=fields.text("unit", by_key[over[0]].unit),
        over=over,
    )
    fields.end()
    return summary


def _row(key: str, fields: Fields, at: tuple[int, ...], columns: tuple[Column, ...]) -> Row:
    own = fields.raw("at", None)
    if own == "once":
        at = ()
    elif own is not None:
        if not at:
            raise fields.problem("at", "is given, but the table has no evaluations")
        at = fields.integers("at", 0)
    holes = fields.child("not_applicable", {})
    names = [column.key for column in columns]
    for name in holes.values:
        if name not in names:
            raise holes.unknown("", "names the column", name, names)
    row = Row(
        key=key,
        label=fields.text("label"),
        method=fields.text("method"),
        at=at,
        reference=fields.flag("reference", False),
        deviations=fields.texts("deviations"),
        not_applicable={name: holes.text(name) for name in holes.values},
    )
    fields.end()
    return row


def _margins(fields: Fields, columns: tuple[Column, ...]) -> Mapping[str, Margin]:
    """Margins by column: `absolute` and `because` for all, a column's own mapping before that."""
    if "margin" not in fields.values:
        fields.raw("margin", None)
        return {}
    inside = fields.child("margin")
    names = [column.key for column in columns]
    own = [name for name in inside.values if name not in ("absolute", "because")]
    margins: dict[str, Margin] = {}
    if len(own) < len(inside.values) or not own:
        margins = dict.fromkeys(names, read_margin(inside))
    for name in own:
        if name not in names:
            raise inside.unknown("", "names the column", name, ["absolute", "because", *names])
        part = inside.child(name)
        margins[name] = read_margin(part)
        part.end()
    return margins


def _published(fields: Fields, table: TableDefinition) -> Mapping[tuple[str, str], Published]:
    names = [column.key for column in table.all_columns]
    cells: dict[tuple[str, str], Published] = {}
    for key in fields.values:
        line = read_line_name(fields, "", key, table.lines)
        row = fields.child(key)
        for column in row.values:
            if column not in names:
                raise row.unknown("", "names the column", column, names)
            cells[line.key, column] = _published_cell(row, column)
    return cells


def _published_cell(fields: Fields, name: str) -> Published:
    value = fields.raw(name)
    if value in WORDS:
        return Published(word=value)
    if is_number(value):
        return Published(mean=float(value))
    if not isinstance(value, Mapping):
        allowed = f"a number, a mapping with mean, or one of {', '.join(WORDS)}"
        raise fields.problem(name, f"is {value!r}; allowed: {allowed}{nearest(value, WORDS)}")
    inside = fields.child(name)
    word = inside.raw("mean")
    cell = Published(
        mean=None if word in WORDS else inside.number("mean"),
        std=inside.number("std", None),
        n=inside.integer("n", 1, None),
        word=word if word in WORDS else None,
        source=inside.text("source", None),
    )
    if cell.std is not None and cell.std < 0:
        raise inside.problem("std", f"must not be negative, got {cell.std:g}")
    inside.end()
    return cell


def _check_printed(
    fields: Fields,
    paper: Paper,
    published: Mapping[tuple[str, str], Published],
    margins: Mapping[str, Margin],
) -> None:
    # 'not found' says that a cell exists and could not be read, which even a layout may know
    printed = {key: cell for key, cell in published.items() if cell.word != "not found"}
    if paper.printed == "none" and printed:
        raise fields.problem("published", "has values, but paper.printed is none")
    if paper.printed != "none" and not printed:
        raise fields.problem("published", f"is empty, but paper.printed is {paper.printed}")
    for (line, column), cell in printed.items():
        if cell.mean is not None and column not in margins:
            raise fields.problem(
                "margin", f"is missing for column {column}, where {line} has a printed value"
            )


def _figure(key: str, fields: Fields, rows: tuple[Row, ...]) -> Figure:
    names = [row.key for row in rows]
    if fields.raw("rows", "all") != "all":
        for name in fields.texts("rows"):
            if name not in names:
                raise fields.unknown("rows", "names the row", name, ["all", *names])
        names = list(fields.texts("rows"))
    make = fields.text("make")
    if not all(part.isidentifier() for part in make.split(".")) or "." not in make:
        raise fields.problem("make", f"must be a function in dotted form, got {make!r}")
    figure = Figure(key=key, make=make, caption=fields.text("caption"), rows=tuple(names))
    fields.end()
    return figure
