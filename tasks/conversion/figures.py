"""Figures of the conversion tables, pure functions of the arrays that the exams saved.

A run is a mapping with `task`, `method`, `method_label`, `seed`, `arrays` and `scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

DOTS_PER_INCH = 100
COLOURS = ("#1d5fa6", "#c8553d", "#3c8d5a", "#8a5fb0", "#d39a1f", "#4aa3b5", "#7a5c45", "#d16a9c")

Run = Mapping[str, Any]


def recovery_curves(runs: Sequence[Run], path: str | Path) -> Path:
    """The score against the steps after conversion: a panel a task, a line a method, and a band of
    one standard deviation over seeds.

    Args:
        runs: runs with the arrays `curve_steps` and `curve_scores`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = _with(runs, "curve_scores")
    tasks = sorted({run["task"] for run in drawn})
    figure = Figure(figsize=(4.6 * min(3, len(tasks)), 3.6 * -(-len(tasks) // 3)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(-(-len(tasks) // 3), min(3, len(tasks)), squeeze=False).flat
    labels = list(dict.fromkeys(run["method_label"] for run in drawn))
    for panel, task in zip(panels, tasks, strict=False):
        for place, label in enumerate(labels):
            own = [r for r in drawn if (r["task"], r["method_label"]) == (task, label)]
            if not own:
                continue
            steps = own[0]["arrays"]["curve_steps"]
            heights = np.stack([run["arrays"]["curve_scores"] for run in own])
            middle, spread = heights.mean(0), heights.std(0, ddof=1) if len(own) > 1 else 0.0
            colour, style = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
            panel.plot(steps, middle, style, color=colour, label=label)
            panel.fill_between(steps, middle - spread, middle + spread, color=colour, alpha=0.15)
        panel.set_xscale("symlog", linthresh=25)
        panel.set_title(task.partition("/")[2], fontsize=10)
        panel.set_xlabel("steps after conversion")
    figure.legend(*panels_handles(figure), loc="outside lower center", ncols=4, fontsize=8)
    return _write(figure, path)


def panels_handles(figure: Figure) -> tuple[list[Any], list[str]]:
    """Every line of the figure once, by its label."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def attention_rows(runs: Sequence[Run], path: str | Path) -> Path:
    """What each query of one test example looks at, in the last layer, mean of its heads: by
    softmax above, by the converted map on the same queries and keys below; a method a column.

    Args:
        runs: runs with the arrays `rows_softmax` and `rows_converted`; of each method the first is
            drawn, all of one task.
        path: where the picture is written.

    Raises:
        ValueError: when no run has the arrays.
    """
    having = _with(runs, "rows_converted")
    having = [run for run in having if run["task"] == having[0]["task"]]
    drawn = list({run["method_label"]: run for run in reversed(having)}.values())[::-1]
    figure = Figure(figsize=(2.4 * len(drawn), 5.0), layout="constrained")
    panels = figure.subplots(2, len(drawn), squeeze=False)
    for column, run in enumerate(drawn):
        pair = [run["arrays"][f"rows_{kind}"][-1].mean(0) for kind in ("softmax", "converted")]
        high = max(part.max() for part in pair)
        for row, rows in enumerate(pair):
            panels[row, column].imshow(rows, cmap="Blues", vmin=0, vmax=high)
            panels[row, column].set(xticks=[], yticks=[])
        panels[0, column].set_title(run["method_label"], fontsize=9)
    panels[0, 0].set_ylabel("softmax")
    panels[1, 0].set_ylabel("converted")
    return _write(figure, path)


def _with(runs: Sequence[Run], array: str) -> list[Run]:
    found = [run for run in runs if array in run["arrays"]]
    if not found:
        raise ValueError(f"no run has the array {array}")
    return found


def _write(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
