"""Learning curves: read from a run's folder, thinned, drawn as SVG lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sextant.tables.report.markup import Markup, tag

Points = list[tuple[float, float]]
LOGARITHMIC_FROM = 100.0
WIDTH, HEIGHT = 200, 100


def read_curves(path: Path) -> dict[str, Points]:
    """The curves of a `step,metric,value` file by metric; empty where there is no file.

    Lines that are cut off or hold no finite number are left out: a run may be writing them.
    """
    found: dict[str, Points] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines()[1:]:
        try:
            step, metric, value = line.split(",")
            point = (float(step), float(value))
        except ValueError:
            continue
        if math.isfinite(point[0]) and math.isfinite(point[1]):
            found.setdefault(metric, []).append(point)
    return found


def thin(points: Points, most: int) -> Points:
    """At most so many of the points, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


def curve_chart(
    curves: Sequence[Points], caption: Markup, frame: Frame | None = None, most: int = 80
) -> Markup:
    """Curves of one metric over one another.

    Args:
        caption: what stands under the drawing.
        frame: the axes, where several charts share them; else the curves' own, labelled.
        most: points drawn of each curve.
    """
    curves = [curve for curve in curves if curve]
    measure = frame or Frame.around(curves)
    lines = "".join(
        f'<polyline points="{" ".join(measure.place(x, y) for x, y in thin(curve, most))}">'
        "</polyline>"
        for curve in curves
    )
    drawing = tag(
        "svg",
        Markup(lines),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="curve",
    )
    if frame is not None:
        return tag("figure", drawing, tag("figcaption", caption), class_="small")
    labels = [
        tag("span", text, class_=place)
        for place, text in (
            ("high", f"{measure.high:.4g}"),
            ("low", f"{measure.low:.4g}" + (" (log)" if measure.logarithmic else "")),
            ("first", f"step {measure.first:g}"),
            ("last", f"{measure.last:g}"),
        )
    ]
    return tag(
        "figure",
        tag("div", *labels, drawing, class_="framed"),
        tag("figcaption", caption),
        class_="large",
    )


class Frame:
    """The axes of a chart: steps from `first` to `last`, values from `low` to `high`."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high
        self.logarithmic = low > 0 and high / low > LOGARITHMIC_FROM

    @classmethod
    def around(cls, curves: Sequence[Points]) -> Frame:
        """The axes that just hold the curves."""
        steps = [x for curve in curves for x, _ in curve] or [0.0]
        values = [y for curve in curves for _, y in curve] or [0.0]
        return cls(min(steps), max(steps), min(values), max(values))

    def place(self, step: float, value: float) -> str:
        """The point as `x,y` in the drawing."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        x = (step - self.first) / ((self.last - self.first) or 1.0)
        y = (value - low) / ((high - low) or 1.0)
        return f"{x * (WIDTH - 4) + 2:.0f},{HEIGHT - 3 - y * (HEIGHT - 6):.0f}"

    def __str__(self) -> str:
        bounds = f"step {self.first:g} to {self.last:g}, value {self.low:.4g} to {self.high:.4g}"
        return bounds + (", logarithmic" if self.logarithmic else "")
