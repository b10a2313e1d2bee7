"""Figures of the kernel fits, pure functions of the arrays that the exam saved.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed`, `arrays` (as saved
by the exam) and `scores` (name to number, or to a mapping with `value`). Tasks and methods appear
in the order of the list; of several seeds the lowest is drawn, and the caption line says so.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.shared.drawing import (
    COLOURS,
    GREY,
    INK,
    LETTERS_AN_INCH,
    WIDTH_INCHES,
    Run,
    chosen,
    scatter,
    seeds,
    write,
)

HEIGHT_INCHES = 2.6


def channel_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """The scalar functions of LUNA's map: one line a target kernel, one panel a method.

    The range is that of the middle 98 % of the projections. Methods without such functions are not
    drawn.

    Args:
        runs: runs with arrays `channel_arguments` and `channel_values`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """

    def draw(panel: Axes, run: Run) -> None:
        arguments, values = run["arrays"]["channel_arguments"], run["arrays"]["channel_values"]
        for channel, function in enumerate(values.T):
            panel.plot(arguments, function, color=COLOURS[channel % len(COLOURS)], linewidth=1.4)
        panel.set_xlabel("$u = w \\cdot x + b$", fontsize=9)

    return _panels(
        runs,
        ("channel_arguments", "channel_values"),
        draw,
        lambda run: "",
        "one curve a channel $\\psi_l(u)$",
        path,
    )


def fit_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Fitted against target weights of the same tokens: one line a kernel, one panel a method.

    A perfect fit lies on the diagonal. Both axes are logarithmic, the same for all panels of a
    line; weights below a thousandth of the largest are drawn at the edge.

    Args:
        runs: runs with arrays `target_rows` and `fitted_rows` and the score `kl`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays, or one lacks the score.
    """
    names = ("target_rows", "fitted_rows")
    largest: dict[str, float] = {}
    for run in chosen(runs, names):
        if "kl" not in run["scores"]:
            who = f"run {run['task']} {run['method']} seed {run['seed']}"
            raise ValueError(f"{who} lacks score kl")
        most = max(float(run["arrays"][name].max()) for name in names)
        largest[run["task"]] = max(most, largest.get(run["task"], 0.0))

    def draw(panel: Axes, run: Run) -> None:
        high = largest[run["task"]]
        ends = np.array([high / 1000, high])
        weights = np.stack([run["arrays"][name].ravel() for name in names], 1)
        panel.plot(ends, ends, color=GREY, linewidth=1.0)
        scatter(panel, weights.clip(*ends), INK, 4, alpha=0.4)
        limits = (ends[0] / 1.3, ends[1] * 1.3)
        panel.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        panel.set_xlabel("target weight", fontsize=9)
        panel.set_ylabel("fitted weight", fontsize=9)

    def value(run: Run) -> str:
        score = run["scores"]["kl"]
        return f"\nKL {float(score['value'] if isinstance(score, Mapping) else score):.3f}"

    return _panels(runs, names, draw, value, "the first queries of the exam", path)


def _panels(
    runs: Sequence[Run],
    arrays: Sequence[str],
    draw: Callable[[Axes, Run], Any],
    note: Callable[[Run], str],
    caption: str,
    path: str | Path,
) -> Path:
    """One line of panels a task; a title is the method's name and a note."""
    lines: dict[str, list[Run]] = {}
    for run in chosen(runs, arrays):
        lines.setdefault(run["task"], []).append(run)
    columns = max(len(line) for line in lines.values())
    letters = max(8, int(WIDTH_INCHES / columns * LETTERS_AN_INCH))
    size = (WIDTH_INCHES, len(lines) * (HEIGHT_INCHES + 0.3) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes, line in zip(grid, lines.values(), strict=True):
        for panel, run in zip(axes, line, strict=False):
            draw(panel, run)
            name = f"{run['task_label']}: {run['method_label']}"
            panel.set_title(f"{textwrap.fill(name, letters)}{note(run)}", fontsize=10)
            panel.tick_params(labelsize=8)
            panel.spines[:].set_color(GREY)
        for panel in axes[len(line) :]:
            panel.set_axis_off()
    figure.supxlabel(f"{caption}; {seeds(chosen(runs, arrays))}", fontsize=10)
    return write(figure, path)
