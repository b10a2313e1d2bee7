"""The figure of time and memory against length, a pure function of the arrays the exam saved.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed` and `arrays` (as
saved by the exam). Of several seeds the lowest is drawn, and the caption line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from tasks.alignment.drawing import COLOURS, GREY, INK, WIDTH_INCHES, Run, chosen, seeds, write

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


def _draw(panel: Axes, runs: Sequence[Run], name: str) -> None:
    looks = styles(runs)
    lengths = sorted({n for run in runs for n in run["arrays"]["lengths"].tolist()})
    panel.set(xscale="log", yscale="log")
    for run, (colour, width) in zip(runs, looks, strict=True):
        x, y = run["arrays"]["lengths"], run["arrays"][name]
        panel.plot(x, y, color=colour, linewidth=width, marker="o", markersize=1.5 + width)
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(lengths, [tokens(n) for n in lengths])
    panel.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.1)
    panel.set_ylim(panel.get_ylim())  # names are placed by it
    panel.grid(color=GREY, alpha=0.35, linewidth=0.6)
    panel.tick_params(labelsize=9)
    panel.spines[:].set_color(GREY)
    _label(panel, runs, looks, name, lengths[-1])


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
        bold = run["method"].rpartition("/")[2] in EMPHASISED
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
    names = [run["method"].rpartition("/")[2] for run in runs]
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
