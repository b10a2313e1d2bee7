"""Any two methods side by side: every pair of lines, with the same test that the claims use."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from sextant.tables.claims import decide, differences
from sextant.tables.schema import Column, Line
from sextant.tables.table import Table
from sextant.tables.templating import script
from sextant.tables.texts import cell_text, column_note

WORDS = {"holds": 1, "fails": -1, "inconclusive": 0}


def pairs_script(table: Table) -> str:
    """Every pair of lines as a script: by column the mean difference, its one-sided 95 % bounds,
    the number of common seeds, and 1, 0 or -1 for first better, open, second better.

    Differences are turned so that above zero means the first line is better, so the page can show
    a pair in either order.
    """
    lines, columns = table.definition.lines, table.definition.all_columns
    pairs = {}
    for (i, left), (j, right) in combinations(enumerate(lines), 2):
        found = [_compared(table, left, right, column) for column in columns]
        if any(found):
            pairs[f"{i},{j}"] = found
    content = {
        "columns": [[c.label, column_note(c), c.digits + 1] for c in columns],
        "cells": [[cell_text(table.cells[n.key, c.key], c).whole for c in columns] for n in lines],
        "pairs": pairs,
    }
    return script("pairs", content)


def _compared(table: Table, left: Line, right: Line, column: Column) -> list[Any] | int:
    """The comparison of two lines in a column; 0 where there is none."""
    ours, other = (table.cells[line.key, column.key] for line in (left, right))
    interval = differences(
        ours, other, column, table.definition.observations.get(table.tier)
    ).interval
    if interval is None:
        return 0
    bounds = (interval.mean, interval.lower, interval.upper)
    word = WORDS[decide(interval, "better_than", 0.0)]
    return [*(round(value, column.digits + 1) for value in bounds), interval.n, word]
