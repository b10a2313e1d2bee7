"""Figures of time and memory against length, pure functions of the arrays the exam saved.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed` and `arrays` (as
saved by the exam). Of several seeds the lowest is drawn, and the caption line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from tasks.shared.drawing import COLOURS, GREY, INK, WIDTH_INCHES, Run, chosen, seeds, write
from tasks.shared.measuring import crossing

HEIGHT_INCHES = 6.4
SOFTMAX = "#c8553d"
EMPHASISED = {"luna": INK, "softmax": SOFTMAX}
"""Methods, by the last part of their name, whose lines are thick and in these colours."""
OTHERS = [colour for colour in COLOURS if colour not in EMPHASISED.values()]
LABEL_GAP = 0.034  # between labels, as a share of the panel's height
PANELS = (
    ("milliseconds", "milliseconds, forward and backward"),
    ("peak_megabytes", "megabytes at the peak of a call"),
)
SIDES = {-1: "<", 0: "o", 1: ">"}
"""Marks of a crossing that lies before, within or beyond the measured lengths."""


def cost_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Time and peak memory against the number of tokens, both on log scales, a line a method.

    Args:
        runs: runs with arrays `lengths`, `milliseconds` and `peak_megabytes`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    shown = chosen(runs, ("lengths", *(name for name, _ in PANELS)))
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    for panel, (name, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        _draw(panel, shown, name)
        panel.set_title(title, fontsize=11)
    figure.supxlabel(f"tokens N; {seeds(shown)}", fontsize=10)
    return write(figure, path)


class Crossover(NamedTuple):
    """Where a method begins to be faster than softmax, ordered by that.

    Args:
        side: a key of `SIDES`.
        place: the length, or the end of the measured ones that is nearest to it.
        words: the length as a text, or what is known of it.
    """

    side: int
    place: float
    words: str


def crossover(run: Run) -> Crossover:
    """The crossover of a run's times with those of softmax, which took turns with it."""
    lengths = run["arrays"]["lengths"].tolist()
    ratios = (run["arrays"]["softmax_milliseconds"] / run["arrays"]["milliseconds"]).tolist()
    place = crossing(lengths, ratios)
    if place is not None:
        return Crossover(0, place, f"{place:,.0f}")
    if ratios[-1] >= 1:
        return Crossover(-1, lengths[0], "faster at every length")
    last = f"{lengths[-1]:,.0f}"
    ever = any(ratio >= 1 for ratio in ratios)
    words = f"slower again at {last}" if ever else f"slower at every length up to {last}"
    return Crossover(1, lengths[-1], words)


def crossover_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """From how many tokens on a method stays faster than softmax, a line a method.

    A dot is that length, between two measured ones on log scales. Where it lies outside of them, a
    triangle points to it and words say what was measured.

    Args:
        runs: runs with arrays `lengths`, `milliseconds` and `softmax_milliseconds`; softmax itself
            is the yardstick and is not drawn.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run but softmax has the arrays.
    """
    others = [run for run in runs if _name(run) != "softmax"]
    shown = chosen(others, ("lengths", "milliseconds", "softmax_milliseconds"))
    shown.sort(key=crossover, reverse=True)
    size = (WIDTH_INCHES, 1.0 + 0.3 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    for line, run in enumerate(shown):
        side, place, words = crossover(run)
        colour = EMPHASISED.get(_name(run), "black")
        panel.plot(place, line, marker=SIDES[side], color=colour, markersize=7)
        panel.annotate(
            words,
            (place, line),
            (-10 if side > 0 else 10, 0),
            textcoords="offset points",
            ha="right" if side > 0 else "left",
            va="center",
            color=colour,
            fontsize=9,
        )
    _length_axis(panel, shown)
    panel.set_yticks(range(len(shown)), [run["method_label"] for run in shown])
    panel.set_ylim(-0.6, len(shown) - 0.4)
    figure.supxlabel(f"tokens N; {seeds(shown)}", fontsize=10)
    return write(figure, path)


def _name(run: Run) -> str:
    return run["method"].rpartition("/")[2]


def _length_axis(panel: Axes, runs: Sequence[Run]) -> float:
    """Gives a panel a tick at every length and the look of all panels; the longest length."""
    lengths = sorted({n for run in runs for n in run["arrays"]["lengths"].tolist()})
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(lengths, [tokens(n) for n in lengths])
    panel.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.1)
    panel.grid(color=GREY, alpha=0.35, linewidth=0.6)
    panel.tick_params(labelsize=9)
    panel.spines[:].set_color(GREY)
    return lengths[-1]


def _draw(panel: Axes, runs: Sequence[Run], name: str) -> None:
    looks = styles(runs)
    panel.set(xscale="log", yscale="log")
    for run, (colour, width) in zip(runs, looks, strict=True):
        x, y = run["arrays"]["lengths"], run["arrays"][name]
        panel.plot(x, y, color=colour, linewidth=width, marker="o", markersize=1.5 + width)
    longest = _length_axis(panel, runs)
    panel.set_ylim(panel.get_ylim())  # names are placed by it
    _label(panel, runs, looks, name, longest)


def _label(
    panel: Axes, runs: Sequence[Run], looks: Sequence[tuple[str, float]], name: str, last: float
) -> None:
    """Names right of the panel, apart from each other; of lines that end early, where they end."""
    places: list[tuple[float, float, Run, str]] = []
    for run, (colour, _) in zip(runs, looks, strict=True):
        x, y = (run["arrays"][key][-1] for key in ("lengths", name))
        if x < last:
            panel.annotate(
                run["method_label"],
                (x, y),
                (-8, 2),
                textcoords="offset points",
                ha="right",
                color=colour,
                fontsize=9,
            )
        else:
            shown = panel.transAxes.inverted().transform(panel.transData.transform((x, y)))
            places.append((*shown.tolist(), run, colour))
    places.sort(key=lambda place: place[1])
    heights = apart([place[1] for place in places], LABEL_GAP)
    for (start, height, run, colour), moved in zip(places, heights, strict=True):
        bold = _name(run) in EMPHASISED
        panel.plot(
            (start, 1.0, 1.04),
            (height, height, moved),
            transform=panel.transAxes,
            clip_on=False,
            color=colour,
            linewidth=0.6,
        )
        panel.text(
            1.045,
            moved,
            run["method_label"],
            transform=panel.transAxes,
            va="center",
            color=colour,
            fontsize=9,
            fontweight="bold" if bold else "normal",
        )


def styles(runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Colour and line width of every run."""
    names = [_name(run) for run in runs]
    others = [name for name in dict.fromkeys(names) if name not in EMPHASISED]
    colours = {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)}
    return [
        (EMPHASISED[name], 3.0) if name in EMPHASISED else (colours[name], 1.2) for name in names
    ]


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved as little as keeps neighbours a gap apart, in least squares."""
    # Without the gaps it is a monotone fit: runs of heights that would cross share their mean.
    blocks: list[list[float]] = []
    for place, height in enumerate(heights):
        blocks.append([height - place * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [float(np.mean(block)) for block in blocks for _ in block]
    return [level + place * gap for place, level in enumerate(levels)]


def tokens(length: float) -> str:
    """A length as a short text: 512, 4k, 16k, 1.5k."""
    return f"{length:g}" if length < 1024 else f"{length / 1024:g}k"
