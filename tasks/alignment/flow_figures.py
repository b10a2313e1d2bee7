"""How flows trained on coupled pairs travel, drawn from the arrays of `FlowPathExam`.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed`, `arrays` and
`scores` (name to number, or to a mapping with `value`). Methods appear in the order of the list;
of several seeds the lowest is drawn.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH_INCHES = 14.0
DOTS_PER_INCH = 100
PANELS_A_LINE = 4
GREY, INK = "#b9bec6", "#2b2f36"
# Distinct in lightness as well as in hue, so that they survive a grey print.
COLOURS = ("#c44e52", "#e3a857", "#1d5fa6", "#4c956c", "#6a4c93", "#2b2f36", "#8c6d46", "#5fb0b7")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LETTERS_AN_INCH = 11.0

Run = Mapping[str, Any]


def paths_figure(runs: Sequence[Run], path: str | Path, shown: int = 40) -> Path:
    """Paths of a few points, one panel a method, and W2 against the number of Euler steps.

    Tasks that are not in the plane are left out; of several plane tasks each gets its own lines of
    panels. The panels of a task share their axes.

    Args:
        runs: runs with arrays `source`, `target`, `paths` and scores `w2@k`.
        path: where the picture is written; its suffix chooses the format.
        shown: points whose paths are drawn, at most those that were kept.

    Raises:
        ValueError: without a run in the plane, or for a run of one that lacks an array or score.
    """
    from matplotlib.figure import Figure

    tasks = _by_task(runs)
    methods = list(dict.fromkeys(run["method"] for line in tasks.values() for run in line))
    places = {method: place for place, method in enumerate(methods)}
    most = 1 + max(len(line) for line in tasks.values())
    columns = math.ceil(most / math.ceil(most / PANELS_A_LINE))
    lines_of = {task: math.ceil((len(line) + 1) / columns) for task, line in tasks.items()}
    lines = sum(lines_of.values())
    side = WIDTH_INCHES / columns
    figure = Figure(figsize=(WIDTH_INCHES, lines * (side + 0.45) + 0.35), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
    grid = figure.subplots(lines, columns, squeeze=False)
    first = 0
    for task, line in tasks.items():
        panels = list(grid[first : first + lines_of[task]].flatten())
        first += lines_of[task]
        _draw_paths(panels[: len(line)], line, places, shown, side)
        _draw_steps(panels[len(line)], line, places, side)
        if len(tasks) > 1:
            panels[0].set_ylabel(line[0]["task_label"], fontsize=11)
        for panel in panels[len(line) + 1 :]:
            panel.set_axis_off()
    seeds = ", ".join(str(seed) for seed in sorted({r["seed"] for x in tasks.values() for r in x}))
    steps = len(next(iter(tasks.values()))[0]["arrays"]["paths"][0]) - 1
    figure.supxlabel(
        f"paths of {steps} Euler steps from the source (dots) over the target (grey); seed {seeds}",
        fontsize=10,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the library's version in the file, equal arrays give equal bytes.
    metadata = {"Software": None} if path.suffix == ".png" else None
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def distances_by_steps(run: Run) -> dict[int, float]:
    """W2 of a run for every number of steps that was scored, smallest number first."""
    found = {}
    for name, score in run["scores"].items():
        if match := re.fullmatch(r"w2@(\d+)", name):
            found[int(match[1])] = _value(score)
    return dict(sorted(found.items()))


def _value(score: Any) -> float:
    return float(score["value"] if isinstance(score, Mapping) else score)


def _by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The lowest seed of every plane task and method, by task, in the order of the list."""
    chosen: dict[tuple[str, str], Run] = {}
    for run in runs:
        arrays = run["arrays"]
        if "target" in arrays and arrays["target"].shape[1] != 2:
            continue
        who = f"run {run['task']} {run['method']} seed {run['seed']}"
        if missing := [name for name in ("target", "paths") if name not in arrays]:
            raise ValueError(f"{who} lacks arrays {', '.join(missing)}")
        if not distances_by_steps(run):
            raise ValueError(f"{who} lacks a score w2@k")
        key = (run["task"], run["method"])
        if key not in chosen or run["seed"] < chosen[key]["seed"]:
            chosen[key] = run
    if not chosen:
        raise ValueError("runs must hold at least one run in the plane to draw")
    tasks: dict[str, list[Run]] = {}
    for run in chosen.values():
        tasks.setdefault(run["task"], []).append(run)
    return tasks


def _draw_paths(
    panels: Sequence[Any],
    line: Sequence[Run],
    places: Mapping[str, int],
    shown: int,
    side: float,
) -> None:
    everything = np.concatenate(
        [run["arrays"]["target"] for run in line]
        + [run["arrays"]["paths"][:shown].reshape(-1, 2) for run in line]
    )
    low, high = everything.min(0), everything.max(0)
    centre, reach = (low + high) / 2, 0.53 * float((high - low).max())
    for panel, run in zip(panels, line, strict=True):
        target, paths = run["arrays"]["target"], run["arrays"]["paths"][:shown]
        colour = COLOURS[places[run["method"]] % len(COLOURS)]
        panel.scatter(*target.T, s=4, c=GREY, linewidths=0, rasterized=True)
        for points in paths:
            panel.plot(*points.T, color=colour, linewidth=1.1, alpha=0.85)
        panel.scatter(*paths[:, 0].T, s=9, c=INK, linewidths=0, zorder=3)
        panel.set(
            xlim=(centre[0] - reach, centre[0] + reach),
            ylim=(centre[1] - reach, centre[1] + reach),
            xticks=[],
            yticks=[],
            aspect="equal",
        )
        panel.spines[:].set_color(GREY)
        title = _wrapped(run["method_label"], side)
        if "straightness" in run["scores"]:
            title += f"\nstraightness {_value(run['scores']['straightness']):.2f}"
        panel.set_title(title, fontsize=11)


def _draw_steps(panel: Any, line: Sequence[Run], places: Mapping[str, int], side: float) -> None:
    from matplotlib.ticker import NullLocator

    ticks: set[int] = set()
    for run in line:
        found, place = distances_by_steps(run), places[run["method"]]
        ticks |= set(found)
        panel.plot(
            list(found),
            list(found.values()),
            color=COLOURS[place % len(COLOURS)],
            marker=MARKS[place % len(MARKS)],
            markersize=5,
            linewidth=1.4,
            label=_wrapped(run["method_label"], side),
        )
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
    panel.xaxis.set_minor_locator(NullLocator())
    values = [value for run in line for value in distances_by_steps(run).values() if value > 0]
    if values:
        levels = _levels(min(values), max(values))
        panel.set_yticks(levels, [f"{level:g}" for level in levels])
        panel.set_ylim(min(levels[0], min(values)) / 1.1, max(levels[-1], max(values)) * 1.1)
        panel.yaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("Euler steps", fontsize=10)
    panel.set_title("$W_2$ to the target", fontsize=11)
    panel.set_box_aspect(1)
    # Numbers to the right of the last panel leave its neighbours their width.
    panel.yaxis.tick_right()
    panel.spines[["top", "left"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)


def _levels(low: float, high: float) -> list[float]:
    """At least two round numbers 1, 2, 5, 10, .., those close to the range from low to high."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    rounds = [step * 10.0**exponent for exponent in exponents for step in (1, 2, 5)]
    inside = [value for value in rounds if low / 1.2 <= value <= high * 1.2]
    if len(inside) > 1:
        return inside
    below = max(value for value in rounds if value <= low)
    return [below, min(value for value in rounds if value >= high and value > below)]


def _wrapped(label: str, side: float) -> str:
    return textwrap.fill(label, int(side * LETTERS_AN_INCH))
