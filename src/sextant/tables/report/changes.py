"""Two states of the ledger side by side: which cells and claims changed, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sextant.tables.cells import Cell
from sextant.tables.report.contents import Before, Report, line_name, page_stem
from sextant.tables.report.markup import Markup, Shell, badge, scrolled, tag
from sextant.tables.schema import Column, Line
from sextant.tables.table import Table
from sextant.tables.texts import SYMBOLS, cell_text, title


@dataclass(frozen=True)
class Change:
    """A cell that says something else than before; `before` is None where it was not there."""

    line: Line
    column: Column
    before: Cell | None
    now: Cell


def changes(before: Table | None, now: Table) -> Iterator[Change]:
    """The cells whose numbers, seeds or failures differ.

    Whether code changed since is no difference of the ledgers, so staleness does not count.
    """
    definition = now.definition
    for line in definition.lines:
        for column in definition.all_columns:
            cell = now.cells[line.key, column.key]
            old = before.cells.get((line.key, column.key)) if before else None
            if _says(cell) != (_says(old) if old else ({}, {}, cell.applicable)):
                yield Change(line, column, old, cell)


def _says(cell: Cell) -> tuple[Mapping[int, float], Mapping[int, str], bool]:
    return dict(cell.values), dict(cell.failures), cell.applicable


def earlier(before: Before, now: Table) -> Table | None:
    """The same table at the same tier in the other state, where it had results."""
    tables = before.tables.get(now.definition.number, ())
    return next((table for table in tables if table.tier == now.tier), None)


def count_changes(before: Before, now: Table) -> str:
    """`no change` or `12 cells changed`."""
    count = sum(1 for _ in changes(earlier(before, now), now))
    return f"{count} cell{'' if count == 1 else 's'} changed" if count else "no change"


def changes_page(report: Report, shell: Shell, before: Before) -> Markup:
    """Every table that changed, the other state beside this one."""
    sections = [_table(before, table) for tables in report.tables.values() for table in tables]
    sections += _vanished(report, before)
    shown = [section for section in sections if section is not None]
    return shell.page(
        "Changes",
        tag("h1", f"This ledger beside {before.name}"),
        tag("p", "Cells and claims that differ, by table and tier; a difference is now less then."),
        *(shown or [tag("p", "Nothing differs.")]),
        current="changes.html",
    )


def _table(before: Before, now: Table) -> Markup | None:
    then = earlier(before, now)
    found = list(changes(then, now))
    claims = list(_claims(then, now))
    if not found and not claims:
        return None
    axis = now.definition.axis
    rows = [_row(change, axis) for change in found]
    words = [tag("th", word, scope="col") for word in ("Method", "Column")]
    numbers = (before.name, "Now", "Difference")
    words += [tag("th", word, scope="col", class_="n") for word in numbers]
    head = tag("thead", tag("tr", *words, tag("th", "So it is", scope="col")))
    caption = tag("caption", f"{len(found)} of {len(now.cells)} cells differ")
    whole = tag("table", caption, head, tag("tbody", *rows), class_="plain changes")
    link = tag("a", f"{title(now)}, tier {now.tier}", href=f"tables/{page_stem(now)}.html")
    return tag(
        "section",
        tag("h2", link),
        tag("p", f"It had no results in {before.name}.") if then is None else None,
        tag("ul", *claims, class_="moves") if claims else None,
        scrolled(whole, f"Changes of {title(now)}") if rows else None,
    )


def _claims(before: Table | None, now: Table) -> Iterator[Markup]:
    old = {claim.id: claim.status for claim in before.claims} if before else {}
    for claim in now.claims:
        status = old.get(claim.id, "not_run")
        if status != claim.status:
            then, since = badge(status, SYMBOLS[status]), badge(claim.status, SYMBOLS[claim.status])
            yield tag("li", then, " → ", since, " ", claim.text)


def _row(change: Change, axis: str | None) -> Markup:
    old, now, column = change.before, change.now, change.column
    difference, word = "–", ""
    if old is not None and old.mean is not None and now.mean is not None:
        gain = now.mean - old.mean
        difference = f"{gain:+.{column.digits + 1}f}".replace("-", "−")
        turn = column.quality(now.mean) - column.quality(old.mean)
        if turn:
            word = "better" if turn > 0 else "worse"
    return tag(
        "tr",
        tag("th", line_name(change.line, axis), scope="row"),
        tag("td", column.label),
        tag("td", _text(old, column) if old else "no result", class_="n"),
        tag("td", _text(now, column), class_="n"),
        tag("td", difference, class_="n"),
        tag("td", word),
    )


def _text(cell: Cell, column: Column) -> str:
    return cell_text(replace(cell, published=None, stale=False), column).whole


def _vanished(report: Report, before: Before) -> list[Markup]:
    """Tables that had results in the other state and have none now."""
    now = {(n, table.tier) for n, tables in report.tables.items() for table in tables}
    return [
        tag(
            "section",
            tag("h2", f"{title(table)}, tier {table.tier}"),
            tag("p", f"It had {len(table.records)} runs in {before.name}; it has none now."),
        )
        for number, tables in sorted(before.tables.items())
        for table in tables
        if (number, table.tier) not in now
    ]
