"""Bars with a dot for each seed, drawn as SVG that keeps its shape at every width.

Positions are percentages, so a chart stretches while its dots stay round; names and numbers are
text beside the drawing, for eyes and screen readers alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sextant.tables.report.grid import mark
from sextant.tables.report.markup import Markup, tag
from sextant.tables.schema import Column
from sextant.tables.table import Table
from sextant.tables.texts import cell_text, column_note

LOGARITHMIC_FROM = 300.0
HEIGHT = 16


@dataclass(frozen=True)
class Scale:
    """Maps a score to a percentage of the width; linear scales hold zero."""

    low: float
    high: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """Where a score stands, from 0 to 100."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(100 * (value - low) / (high - low), 2)

    def ticks(self) -> list[float]:
        """Three to six round scores."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first + 1) / 5))
            return [10.0**power for power in range(first, last + 1, step)]
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.9)
        count = math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9)
        return [(math.ceil(self.low / step - 1e-9) + k) * step for k in range(count + 1)]


def scale(values: Iterable[float]) -> Scale:
    """A scale from zero with a little room; logarithmic where scores span several powers of ten."""
    found = [value for value in values if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if low > 0 and high / low > LOGARITHMIC_FROM:
        return Scale(low / 1.5, high * 1.2, True)
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.04 * ((high - low) or 1.0)
    return Scale(
        low - room if low < 0 else 0.0, high + room if high > 0 or low == 0 else 0.0, False
    )


def bar_chart(table: Table, column: Column) -> Markup | None:
    """One bar a line that has a score: the mean, its seeds as dots, the printed value as an open
    diamond; None where no line has one."""
    definition = table.definition
    lines = [line for line in definition.lines if definition.fills(line, column)]
    cells = {line.key: table.cells[line.key, column.key] for line in lines}
    scored = [line for line in lines if cells[line.key].values]
    if not scored:
        return None
    printed = {
        line.key: published.mean
        for line in scored
        if (published := cells[line.key].published) is not None and published.mean is not None
    }
    ours = [value for line in scored for value in cells[line.key].values.values()]
    measure = scale([*ours, *printed.values()])
    rows, point = [], None
    for line in scored:
        if line.at != point and line.at is not None:
            rows.append(tag("li", f"{definition.axis} {line.at}", class_="group"))
        point, cell = line.at, cells[line.key]
        shown = cell_text(cell, column)
        name = tag("span", line.row.label, class_="name")
        drawing = bar(measure, cell.mean, list(cell.values.values()), printed.get(line.key))
        number = tag("span", shown.ours, mark(cell, shown.mark), class_="number")
        rows.append(tag("li", name, drawing, number))
    notes = []
    if measure.logarithmic:
        notes.append("logarithmic axis, so a bar's length means nothing")
    if len(scored) < len(lines):
        notes.append(f"{len(lines) - len(scored)} rows have no score yet")
    named = (tag("b", column.label), f" {column_note(column)}", tag("small", "; ".join(notes)))
    caption = tag("figcaption", *named)
    return tag("figure", caption, tag("ul", *rows, _axis(measure), class_="bars"))


def bar(
    measure: Scale, mean: float | None, dots: Sequence[float], printed: float | None = None
) -> Markup:
    """The drawing of one bar; it repeats numbers that stand beside it, so it is hidden from screen
    readers."""
    drawn = []
    if mean is not None:
        zero = 0.0 if measure.logarithmic else measure.at(0.0)
        start, end = sorted((zero, measure.at(mean)))
        drawn.append(f'<rect x="{start}%" width="{end - start:.2f}%" y="4" height="8"></rect>')
    drawn += [f'<circle cx="{measure.at(value)}%" cy="8" r="2.5"></circle>' for value in dots]
    if printed is not None:
        diamond = '<path d="M-4 8L0 3L4 8L0 13Z"></path>'
        drawn.append(f'<svg x="{measure.at(printed)}%" overflow="visible">{diamond}</svg>')
    return tag("svg", Markup("".join(drawn)), class_="bar", height=HEIGHT, aria_hidden="true")


def _axis(measure: Scale) -> Markup:
    marks = "".join(
        f'<line x1="{at}%" x2="{at}%" y1="0" y2="4"></line>'
        f'<text x="{at}%" y="15" text-anchor="{_anchor(at)}">{value:.6g}</text>'
        for value in measure.ticks()
        for at in [measure.at(value)]
    )
    drawing = tag("svg", Markup(marks), class_="axis", height=18)
    return tag("li", tag("span", class_="name"), drawing, aria_hidden="true", class_="scale")


def _anchor(at: float) -> str:
    return "start" if at < 4 else "end" if at > 96 else "middle"
