"""What the figures of the family share: which runs are drawn, in which colours, and the file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES = 14.0
DOTS_PER_INCH = 100
GREY, LIGHT, INK = "#b9bec6", "#e3a857", "#1d5fa6"
COLOURS = (INK, "#c8553d", "#3c8d5a", "#8a5fb0", "#d39a1f", "#4aa3b5", "#7a5c45", "#d16a9c")
LETTERS_AN_INCH = 12.0  # of a title, at ten points

Run = Mapping[str, Any]


def chosen(runs: Sequence[Run], arrays: Sequence[str]) -> list[Run]:
    """The lowest seed of every task and method, tasks together, in the order of the list.

    A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed`, `arrays` (as
    saved by the exam) and `scores`. Runs of a table's other exams have other arrays and are not
    drawn.

    Raises:
        ValueError: when no run has the arrays.
    """
    lowest: dict[tuple[str, str], Run] = {}
    for run in runs:
        if any(name not in run["arrays"] for name in arrays):
            continue
        key = (run["task"], run["method"])
        if key not in lowest or run["seed"] < lowest[key]["seed"]:
            lowest[key] = run
    if not lowest:
        raise ValueError(f"runs must hold one with the arrays {', '.join(arrays)}, got none")
    tasks = list(dict.fromkeys(task for task, _ in lowest))
    return sorted(lowest.values(), key=lambda run: tasks.index(run["task"]))


def label(run: Run, runs: Sequence[Run], inches: float = WIDTH_INCHES) -> str:
    """The method's name, after the task's where the runs are of several; wrapped to a width."""
    several = len({other["task"] for other in runs}) > 1
    name = f"{task_name(run)}: {run['method_label']}" if several else run["method_label"]
    return textwrap.fill(name, max(8, int(inches * LETTERS_AN_INCH)))


def task_name(run: Run) -> str:
    """The label of the run's task, which is that of a column, without the score behind a colon."""
    return run["task_label"].partition(":")[0]


def colours(runs: Sequence[Run]) -> list[str]:
    """A colour for every run; they come round again after eight."""
    return [COLOURS[k % len(COLOURS)] for k in range(len(runs))]


def seeds(runs: Sequence[Run]) -> str:
    """Which seeds are drawn."""
    return f"seed {', '.join(map(str, sorted({run['seed'] for run in runs})))}"


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count-1, evenly, the first and the last among them."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def scatter(panel: Axes, points: np.ndarray, colour: str, size: float, **how: Any) -> None:
    """Points (n, 2) in one colour."""
    panel.scatter(*points.T, s=size, c=colour, linewidths=0, rasterized=True, **how)


def plane(panel: Axes, clouds: Sequence[np.ndarray]) -> None:
    """Makes a panel a square that holds the clouds (n, 2), without ticks."""
    points = np.concatenate(clouds)
    low, high = points.min(0), points.max(0)
    centre, reach = (low + high) / 2, 0.55 * float((high - low).max())
    panel.set(
        xlim=(centre[0] - reach, centre[0] + reach),
        ylim=(centre[1] - reach, centre[1] + reach),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    panel.spines[:].set_color(GREY)


def write(figure: Figure, path: str | Path) -> Path:
    """Saves the figure; the suffix chooses the format, and equal figures give equal bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file would otherwise name the library's version.
    metadata = {"Software": None} if path.suffix == ".png" else None
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
    return path
