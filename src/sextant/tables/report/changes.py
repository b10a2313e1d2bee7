"""Two states of the ledger side by side: which cells and claims changed, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sextant.tables.cells import Cell
from sextant.tables.claims import ClaimResult
from sextant.tables.report.contents import Before, Report
from sextant.tables.schema import Column, Line
from sextant.tables.table import Table
from sextant.tables.texts import cell_text


@dataclass(frozen=True)
class Change:
    """A cell that says something else than before; `before` is None where it was not there."""

    line: Line
    column: Column
    before: Cell | None
    cell: Cell

    @property
    def then(self) -> str:
        return _text(self.before, self.column) if self.before else "no result"

    @property
    def now(self) -> str:
        return _text(self.cell, self.column)

    @property
    def difference(self) -> str:
        """Now less then."""
        if self.before is None or self.before.mean is None or self.cell.mean is None:
            return "–"
        gain = self.cell.mean - self.before.mean
        return f"{gain:+.{self.column.digits + 1}f}".replace("-", "−")

    @property
    def word(self) -> str:
        """`better`, `worse`, or nothing where that cannot be said."""
        if self.before is None or self.before.mean is None or self.cell.mean is None:
            return ""
        turn = self.column.quality(self.cell.mean) - self.column.quality(self.before.mean)
        return "better" if turn > 0 else "worse" if turn < 0 else ""


class ChangedTable(NamedTuple):
    """A table that changed; `claims` come with what was said of them before; `new` where it had
    no results then."""

    table: Table
    new: bool
    claims: list[tuple[ClaimResult, str]]
    cells: list[Change]


def changes(before: Table | None, now: Table) -> Iterator[Change]:
    """The cells whose numbers, seeds or failures differ.

    Whether code changed since is no difference of the ledgers, so staleness does not count.
    """
    for line in now.definition.lines:
        for column in now.definition.all_columns:
            cell = now.cells[line.key, column.key]
            old = before.cells.get((line.key, column.key)) if before else None
            if _says(cell) != (_says(old) if old else ({}, {}, cell.applicable)):
                yield Change(line, column, old, cell)


def _says(cell: Cell) -> tuple[Mapping[int, float], Mapping[int, str], bool]:
    return dict(cell.values), dict(cell.failures), cell.applicable


def _text(cell: Cell, column: Column) -> str:
    return cell_text(replace(cell, stale=False), column).whole


def earlier(before: Before, now: Table) -> Table | None:
    """The same table at the same tier in the other state, where it had results."""
    tables = before.tables.get(now.definition.number, ())
    return next((table for table in tables if table.tier == now.tier), None)


def count_changes(before: Before, now: Table) -> int:
    """How many cells changed."""
    return sum(1 for _ in changes(earlier(before, now), now))


def changes_view(report: Report, before: Before) -> dict[str, Any]:
    """Every table that changed, and those that had results in the other state and have none now."""
    filled = [table for tables in report.tables.values() for table in tables]
    now = {(table.definition.number, table.tier) for table in filled}
    changed = [_changed(earlier(before, table), table) for table in filled]
    return {
        "changed": [part for part in changed if part.claims or part.cells],
        "vanished": [
            table
            for number, tables in sorted(before.tables.items())
            for table in tables
            if (number, table.tier) not in now
        ],
    }


def _changed(then: Table | None, now: Table) -> ChangedTable:
    old = {claim.id: claim.status for claim in then.claims} if then else {}
    claims = [(claim, old.get(claim.id, "not_run")) for claim in now.claims]
    moved = [(claim, status) for claim, status in claims if claim.status != status]
    return ChangedTable(now, then is None, moved, list(changes(then, now)))
