"""What the front page shows: every registered table at a glance, by paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from sextant.tables.pages import PRINTED
from sextant.tables.register import RegisterEntry
from sextant.tables.report.changes import count_changes
from sextant.tables.report.contents import Report
from sextant.tables.schema import TIERS
from sextant.tables.table import Table


class FrontRow(NamedTuple):
    """A registered table at one tier; without results `filled` is false, and before it is built
    `table` is None. `changed` counts the cells that differ from the other state."""

    entry: RegisterEntry
    table: Table | None
    filled: bool
    changed: int


def front_view(report: Report, empty: Mapping[int, Table]) -> dict[str, Any]:
    """The view of the front page.

    Args:
        empty: a table without runs for each number that is built and has no result yet.
    """
    papers: dict[str, list[FrontRow]] = {}
    for number, entry in sorted(report.register.entries.items()):
        rows = [
            FrontRow(entry, t, True, count_changes(report.before, t) if report.before else 0)
            for t in report.tables.get(number, ())
        ]
        papers.setdefault(entry.paper, [])
        papers[entry.paper] += rows or [FrontRow(entry, empty.get(number), False, 0)]
    tiers = {table.tier for tables in report.tables.values() for table in tables}
    highest = [tables[-1] for tables in report.tables.values() if tables]
    failed = sum(run.status != "done" for run in report.runs.values())
    return {
        "papers": papers,
        "register": report.register,
        "PRINTED": PRINTED,
        "tiers": [tier for tier in TIERS if tier in tiers],
        "tally": [
            ("Tables", len(report.register.entries)),
            ("built", len(report.definitions)),
            ("with results", len(highest)),
            ("Runs in the ledger", f"{len(report.runs):,}"),
            ("failed", failed),
        ],
        "claims": sum((table.claim_counts for table in highest), Counter()),
    }
