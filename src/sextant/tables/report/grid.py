"""The table itself as HTML: ours beside the paper's, every cell a button that opens its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sextant.tables.cells import Cell
from sextant.tables.render import groups
from sextant.tables.report.markup import Markup, badge, join, scrolled, tag
from sextant.tables.schema import Column, Line
from sextant.tables.table import Table
from sextant.tables.texts import cell_text, column_note, row_label, title

VERDICTS = {"reproduced": "✓", "agrees": "✓", "differs": "✗", "inconclusive": "?"}


def grid(table: Table) -> Markup:
    """The table; a column has the paper's beside it where the paper prints anything."""
    definition = table.definition
    beside = {cell.column for cell in table.cells.values() if cell.published is not None}
    columns = definition.all_columns
    bodies = []
    for point, lines in groups(table):
        best = {column.key: table.best(column, point) for column in columns}
        rows = [_row(table, line, beside, best) for line in lines]
        if definition.axis is not None:
            name = "evaluated once" if point is None else f"{definition.axis} {point}"
            span = 1 + len(columns) + len(beside)
            head = tag("th", tag("span", name), colspan=span, scope="rowgroup")
            rows.insert(0, tag("tr", head, class_="group"))
        bodies.append(tag("tbody", *rows))
    caption = tag("caption", f"{title(table)}, tier {table.tier}", class_="unseen")
    whole = tag("table", caption, _head(columns, beside), *bodies, class_="grid sortable")
    return scrolled(whole, f"{title(table)}, scrolls sideways")


def _head(columns: Sequence[Column], beside: set[str]) -> Markup:
    deep = 2 if beside else None
    upper: list[Markup] = [_sorter("Method", 0, None, rowspan=deep)]
    lower: list[Markup] = []
    index = 1
    for column in columns:
        label = join((column.label, " ", tag("small", column_note(column))))
        if column.key not in beside:
            upper.append(_sorter(label, index, column.better, rowspan=deep))
            index += 1
            continue
        upper.append(tag("th", label, colspan=2, scope="colgroup"))
        lower += [
            _sorter(word, index + k, column.better, of=column.label)
            for k, word in enumerate(("ours", "paper"))
        ]
        index += 2
    rows = [tag("tr", *upper)] + ([tag("tr", *lower)] if lower else [])
    return tag("thead", *rows)


def _sorter(
    label: object, index: int, better: str | None, rowspan: int | None = None, of: str | None = None
) -> Markup:
    """A column's head; its button sorts the better numbers first, then last, then as printed."""
    hidden = tag("span", f" of {of}", class_="unseen") if of else None
    button = tag("button", label, hidden, type="button", class_="sort")
    return tag(
        "th",
        button,
        scope="col",
        rowspan=rowspan,
        aria_sort="none",
        data_index=index,
        data_better=better,
    )


def _row(table: Table, line: Line, beside: set[str], best: dict[str, frozenset[str]]) -> Markup:
    head = tag("th", row_label(line.row), scope="row", title=line.row.method)
    row = [head]
    for column in table.definition.all_columns:
        cell = table.cells[line.key, column.key]
        row.append(_ours(table, cell, line, column, line.key in best[column.key]))
        if column.key in beside:
            row.append(_printed(cell, column))
    return tag(
        "tr",
        *row,
        data_line=line.key,
        data_row=line.row.key,
        class_="reference" if line.row.reference else None,
    )


def _ours(table: Table, cell: Cell, line: Line, column: Column, best: bool) -> Markup:
    shown = cell_text(cell, column)
    if not cell.applicable:
        return tag("td", shown.ours, class_="absent", title=_why_not(line, column, table))
    button = tag(
        "button",
        tag("b", shown.ours) if best else shown.ours,
        mark(cell, shown.mark),
        type="button",
        data_cell=f"{line.row.key}/{column.key}",
    )
    return tag("td", button, data_v=None if cell.mean is None else f"{cell.mean:.12g}")


def mark(cell: Cell, text: str) -> Markup | None:
    """What qualifies a number, such as `(2/3)!`; it catches the eye where seeds are lacking or the
    code has changed since."""
    lacking = bool(cell.values) and (not cell.complete or cell.stale)
    return tag("span", text, class_="mark lack" if lacking else "mark") if text else None


def _why_not(line: Line, column: Column, table: Table) -> str:
    reasons = line.row.not_applicable
    found = [reasons[key] for key in (column.key, *column.over) if key in reasons]
    return "; ".join(found) or f"not scored at this {table.definition.axis}"


def _printed(cell: Cell, column: Column) -> Markup:
    """The paper's value; its verdict is shown where one was reached, which is at tier paper."""
    published = cell.published
    if published is None:
        return tag("td", tag("span", "–", title="nothing printed"), class_="paper")
    if published.word is not None:
        return tag("td", published.word, class_="paper", title=published.source)
    number = cell_text(replace(cell, verdict=None), column).printed.removeprefix("paper ")
    verdict = cell.verdict or ""
    mark = badge(verdict, VERDICTS[verdict]) if verdict in VERDICTS else None
    return tag(
        "td", number, mark, class_="paper", title=published.source, data_v=f"{published.mean:.12g}"
    )
