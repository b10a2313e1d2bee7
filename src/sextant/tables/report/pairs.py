"""Any two methods side by side: every pair of lines, with the same test that the claims use."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

from sextant.tables.claims import decide, difference
from sextant.tables.report.contents import line_name
from sextant.tables.report.markup import Markup, script_value, tag
from sextant.tables.table import Table
from sextant.tables.texts import cell_text, column_note

WORDS = {"holds": 1, "fails": -1, "inconclusive": 0}


def pairs_script(table: Table) -> str:
    """Every pair of lines as a script: by column the mean difference, its one-sided 95 % bounds,
    the number of common seeds, and 1, 0 or -1 for first better, open, second better.

    Differences are turned so that above zero means the first line is better, so the page can show
    a pair in either order.
    """
    definition = table.definition
    lines, columns = definition.lines, definition.all_columns
    pairs: dict[str, list[Any]] = {}
    for (i, left), (j, right) in combinations(enumerate(lines), 2):
        found = []
        for column in columns:
            ours = table.cells[left.key, column.key].values
            other = table.cells[right.key, column.key].values
            interval = difference(ours, other, column) if ours and other else None
            if interval is None:
                found.append(0)
                continue
            word = WORDS[decide(interval, "better_than", 0.0)]
            bounds = (interval.mean, interval.lower, interval.upper)
            found.append([*(round(v, column.digits + 1) for v in bounds), interval.n, word])
        if any(found):
            pairs[f"{i},{j}"] = found
    content = {
        "columns": [[c.label, column_note(c), c.digits + 1] for c in columns],
        "cells": [
            [
                cell_text(replace(table.cells[n.key, c.key], published=None), c).whole
                for c in columns
            ]
            for n in lines
        ],
        "pairs": pairs,
    }
    return f"sextant.receive('pairs',{script_value(content)});\n"


def chooser(table: Table) -> Markup:
    """The two lists of lines and the place where their comparison appears."""
    definition = table.definition
    names = [line_name(line, definition.axis) for line in definition.lines]
    rows = [line.row.key for line in definition.lines]

    def choice(label: str, name: str, chosen: int) -> Markup:
        options = [
            tag("option", text, value=k, selected=k == chosen, data_row=rows[k])
            for k, text in enumerate(names)
        ]
        return tag("label", label, " ", tag("select", *options, id=name))

    return tag(
        "section",
        tag("h2", "Compare two methods", id="compare"),
        tag(
            "form",
            choice("Method A", "first", 0),
            choice("Method B", "second", min(1, len(names) - 1)),
            tag("button", "Compare", type="submit"),
            tag("button", "Swap", type="button", id="swap"),
            class_="tools",
            id="pair",
        ),
        tag("output", id="compared", aria_live="polite", class_="about"),
        tag("div", id="comparison"),
        aria_labelledby="compare",
    )
