"""Figures of the generation tables, pure functions of the arrays that exams saved.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed`, `arrays` (as saved
by the exam) and `scores` (name to number, or to a mapping with `value`). Tasks and methods appear
in the order of the list; of several seeds the lowest is drawn, and the caption line says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.generation.pictures import show

WIDTH_INCHES = 14.0
DOTS_PER_INCH = 100
GREY, LIGHT, INK = "#b9bec6", "#e3a857", "#1d5fa6"
DIGIT_PANELS_A_LINE = 5
LETTERS_AN_INCH = 12.0  # of a panel's title, at ten points

Run = Mapping[str, Any]


def plane_figure(runs: Sequence[Run], path: str | Path, steps: int = 1) -> Path:
    """Generated points over the target: one line a task, one panel a method.

    The first panel of a line shows the source and the target. Panels of a line share their axes,
    which hold the whole target; samples far outside them are cut off.

    Args:
        runs: runs of plane tasks, with arrays `source`, `target` and `samples@<steps>`.
        path: where the picture is written; its suffix chooses the format.
        steps: the number of network evaluations that is drawn.

    Raises:
        ValueError: without runs, or for a run that lacks an array or score.
    """
    lines = _by_task(runs, (f"samples@{steps}", "source", "target"), f"w2@{steps}")
    columns = 1 + max(len(line) for line in lines.values())
    side = WIDTH_INCHES / columns
    names = {
        run["method"]: textwrap.fill(run["method_label"], int(side * LETTERS_AN_INCH))
        for line in lines.values()
        for run in line
    }
    title = 0.2 * (1 + max(name.count("\n") + 1 for name in names.values()))
    figure = Figure(figsize=(WIDTH_INCHES, len(lines) * (side + title) + 0.3), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes, line in zip(grid, lines.values(), strict=True):
        first = line[0]
        target = first["arrays"]["target"]
        _scatter(axes[0], first["arrays"]["source"], LIGHT, 3)
        _scatter(axes[0], target, GREY, 3)
        axes[0].set_title("source and target", fontsize=10)
        task = textwrap.fill(first["task_label"], int(side * LETTERS_AN_INCH))
        axes[0].set_ylabel(task, fontsize=10)
        for panel, run in zip(axes[1:], line, strict=False):
            _scatter(panel, target, GREY, 3)
            _scatter(panel, run["arrays"][f"samples@{steps}"], INK, 2)
            value = _score(run, f"w2@{steps}")
            panel.set_title(f"{names[run['method']]}\n$W_2$ {value:.3f}", fontsize=10)
        low, high = target.min(0), target.max(0)
        centre, reach = (low + high) / 2, 0.58 * float((high - low).max())
        for panel in axes:
            panel.set(
                xlim=(centre[0] - reach, centre[0] + reach),
                ylim=(centre[1] - reach, centre[1] + reach),
                xticks=[],
                yticks=[],
                aspect="equal",
            )
            panel.spines[:].set_color(GREY)
        for panel in axes[1 + len(line) :]:
            panel.set_axis_off()
    counted = "one network evaluation" if steps == 1 else f"{steps} network evaluations"
    figure.supxlabel(f"blue: samples of {counted}; grey: target; {_seeds(lines)}", fontsize=10)
    return _write(figure, path)


def latent_figure(runs: Sequence[Run], path: str | Path, steps: int = 1) -> Path:
    """Decoded digits of every method beside real test digits the autoencoder gave back.

    Args:
        runs: runs of latent image tasks, with arrays `real_digits` and `digits@<steps>`.
        path: where the picture is written; its suffix chooses the format.
        steps: the number of network evaluations that is drawn.

    Raises:
        ValueError: without runs, or for a run that lacks an array or score.
    """
    digits, accuracy = f"digits@{steps}", f"accuracy@{steps}"
    lines = _by_task(runs, (digits, "real_digits"), accuracy)
    panels = []
    for line in lines.values():
        heading = f"{line[0]['task_label']}: " if len(lines) > 1 else ""
        panels.append(
            (f"{heading}real, through the\nautoencoder", line[0]["arrays"]["real_digits"])
        )
        panels += [
            (
                f"{run['method_label']}\nread as asked: {_score(run, accuracy):.1%}",
                run["arrays"][digits],
            )
            for run in line
        ]
    rows = math.ceil(len(panels) / DIGIT_PANELS_A_LINE)
    columns = math.ceil(len(panels) / rows)
    classes, across = panels[0][1].shape[:2]
    height = WIDTH_INCHES / columns * classes / across + 0.5
    figure = Figure(figsize=(WIDTH_INCHES, rows * height + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in grid:
        panel.set_axis_off()
    for panel, (title, pictures) in zip(grid, panels, strict=False):
        panel.imshow(show(pictures), interpolation="nearest")
        panel.set_title(title, fontsize=11)
    counted = "one network evaluation" if steps == 1 else f"{steps} network evaluations"
    figure.supxlabel(f"rows: the class asked for; {counted}; {_seeds(lines)}", fontsize=10)
    return _write(figure, path)


def _by_task(runs: Sequence[Run], arrays: Sequence[str], score: str) -> dict[str, list[Run]]:
    """The lowest seed of every task and method, by task, in the order of the list."""
    chosen: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run["task"], run["method"])
        who = f"run {run['task']} {run['method']} seed {run['seed']}"
        if missing := [name for name in arrays if name not in run["arrays"]]:
            raise ValueError(f"{who} lacks arrays {', '.join(missing)}")
        if score not in run["scores"]:
            raise ValueError(f"{who} lacks score {score}")
        if key not in chosen or run["seed"] < chosen[key]["seed"]:
            chosen[key] = run
    if not chosen:
        raise ValueError("runs must hold at least one run to draw")
    lines: dict[str, list[Run]] = {}
    for run in chosen.values():
        lines.setdefault(run["task"], []).append(run)
    return lines


def _score(run: Run, name: str) -> float:
    score = run["scores"][name]
    return float(score["value"] if isinstance(score, Mapping) else score)


def _seeds(lines: Mapping[str, Sequence[Run]]) -> str:
    seeds = sorted({run["seed"] for line in lines.values() for run in line})
    return f"seed {', '.join(map(str, seeds))}"


def _scatter(panel: Axes, points: np.ndarray, colour: str, size: float) -> None:
    panel.scatter(*points.T, s=size, c=colour, alpha=0.6, linewidths=0, rasterized=True)


def _write(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the library's version in the file, equal arrays give equal bytes.
    metadata = {"Software": None} if path.suffix == ".png" else None
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
    return path
