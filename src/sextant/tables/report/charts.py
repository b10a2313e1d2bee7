"""The numbers behind the charts: scales, ticks and lines; templates/charts.html draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sextant.tables.schema import Column
from sextant.tables.table import Table
from sextant.tables.texts import cell_text

Points = list[tuple[float, float]]


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

    def bar(self, value: float) -> tuple[float, str]:
        """Start and width of the bar from zero (a logarithmic scale's left edge) to a score."""
        zero = 0.0 if self.logarithmic else self.at(0.0)
        start, end = sorted((zero, self.at(value)))
        return start, f"{end - start:.2f}"

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
    if low > 0 and high / low > 300:
        return Scale(low / 1.5, high * 1.2, True)
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.04 * ((high - low) or 1.0)
    return Scale(
        low - room if low < 0 else 0.0, high + room if high > 0 or low == 0 else 0.0, False
    )


class BarChart(NamedTuple):
    """The lines of a column that have a score, as (line, cell, its words, printed value)."""

    column: Column
    scale: Scale
    bars: Sequence[tuple[Any, ...]]
    notes: Sequence[str]


def bar_charts(table: Table) -> list[BarChart]:
    """One chart a column in which anything is scored."""
    charts = []
    for column in table.definition.all_columns:
        lines = [line for line in table.definition.lines if table.definition.fills(line, column)]
        bars = []
        for line in lines:
            cell = table.cells[line.key, column.key]
            if cell.values:
                printed = cell.published.mean if cell.published else None
                bars.append((line, cell, cell_text(cell, column), printed))
        if not bars:
            continue
        ours = [value for _, cell, _, _ in bars for value in cell.values.values()]
        measure = scale([*ours, *(bar[3] for bar in bars if bar[3] is not None)])
        notes = []
        if measure.logarithmic:
            notes.append("logarithmic axis, so a bar's length means nothing")
        if len(bars) < len(lines):
            notes.append(f"{len(lines) - len(bars)} rows have no score yet")
        charts.append(BarChart(column, measure, bars, notes))
    return charts


class Frame:
    """The axes of curves: steps from `first` to `last`, values from `low` to `high`, in a drawing
    of WIDTH x HEIGHT units."""

    WIDTH, HEIGHT = 200, 100

    def __init__(self, curves: Sequence[Points]) -> None:
        steps = [x for curve in curves for x, _ in curve] or [0.0]
        values = [y for curve in curves for _, y in curve] or [0.0]
        self.first, self.last = min(steps), max(steps)
        self.low, self.high = min(values), max(values)
        self.logarithmic = self.low > 0 and self.high / self.low > 100

    def path(self, points: Points, most: int) -> str:
        """The points of an SVG polyline, thinned to at most so many."""
        return " ".join(self.place(*point) for point in thin(points, most))

    def place(self, step: float, value: float) -> str:
        """The point as `x,y` in the drawing."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        x = (step - self.first) / ((self.last - self.first) or 1.0)
        y = (value - low) / ((high - low) or 1.0)
        return f"{x * (self.WIDTH - 4) + 2:.0f},{self.HEIGHT - 3 - y * (self.HEIGHT - 6):.0f}"

    def __str__(self) -> str:
        bounds = f"step {self.first:g} to {self.last:g}, value {self.low:.4g} to {self.high:.4g}"
        return bounds + (", logarithmic" if self.logarithmic else "")


def thin(points: Points, most: int) -> Points:
    """At most so many of the points, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


class CurveChart(NamedTuple):
    """Curves of one metric in a frame of their own; `said` follows its name in the caption."""

    metric: str
    said: str
    frame: Frame
    curves: Sequence[Points]


def curve_chart(metric: str, said: str, curves: Sequence[Points]) -> CurveChart:
    return CurveChart(metric, said, Frame(curves), curves)
