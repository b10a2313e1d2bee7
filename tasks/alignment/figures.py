"""Figures of the alignment tables, pure functions of the arrays that exams saved.

What a run is, and which ones are drawn, says `tasks.shared.drawing.chosen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from tasks.shared.drawing import (
    GREY,
    INK,
    LIGHT,
    WIDTH_INCHES,
    Run,
    chosen,
    colours,
    label,
    plane,
    scatter,
    seeds,
    spread,
    task_name,
    write,
)

PROBLEM_PANELS = 7
PAIR_COLUMNS = 3
ROW_LABEL_INCHES = 2.4
LEVEL_LINES = 16
VIEW_DEGREES = (30, 20)  # about the upright axis, and from above
SPACE_SIDE = 2.7  # inches


def drift_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Cost against iterations on every problem, and zero-shot cost against a shift of problem 0.

    A student with a curve is a line that ends in its last cost, one without is a dotted level;
    the dashed level is exact OT, and an exact student is not drawn again. Below, cost over OT of
    what problem 0 left behind.

    Args:
        runs: runs of one drift task, with the arrays of `DriftExam`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    needed = ("cost", "optimum", "rotation_degrees", "rotation_ratio", "jitter_std", "jitter_ratio")
    drawn = chosen(runs, needed)
    figure = Figure(figsize=(WIDTH_INCHES, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    optima = drawn[0]["arrays"]["optimum"]
    problems = spread(len(optima), PROBLEM_PANELS)
    shades = [
        (run, colour)
        for run, colour in zip(drawn, colours(drawn), strict=True)
        if not np.allclose(run["arrays"]["cost"], run["arrays"]["optimum"], rtol=1e-9, atol=0)
    ]
    # Equal lines happen, as problem 0 is the same with and without a warm start: both stay seen.
    widths = np.linspace(3.2, 1.3, len(shades))
    panels = above.subplots(1, len(problems), sharey=True, squeeze=False)[0]
    for panel, p in zip(panels, problems, strict=True):
        for width, (run, colour) in zip(widths, shades, strict=True):
            _cost_line(panel, run, p, colour, width)
        panel.axhline(optima[p], color="black", linestyle="--", linewidth=1)
        panel.set_title(f"problem {p}", fontsize=10)
        _plain(panel)
    panels[0].set_ylabel("ground cost")
    above.supxlabel("iterations on the problem", fontsize=10)
    pictures = below.subplots(1, 2, sharey=True)
    for panel, kind, unit in zip(
        pictures, ("rotation_degrees", "jitter_std"), ("degrees", "standard deviation"), strict=True
    ):
        shift = kind.split("_")[0]
        for width, (run, colour) in zip(widths, shades, strict=True):
            arrays = run["arrays"]
            panel.plot(
                arrays[kind], arrays[f"{shift}_ratio"], "o-", color=colour, linewidth=width,
                markersize=2.5 + width, label=label(run, drawn, 2.6),
            )  # fmt: skip
        panel.axhline(1, color="black", linestyle="--", linewidth=1, label="exact OT")
        panel.set(xscale="log", xlabel=f"{shift} of both clouds, {unit}")
        panel.set_title("problem 0 disturbed, no step on it", fontsize=10)
        _ticks_at(panel, drawn[0]["arrays"][kind])
        _plain(panel)
    pictures[0].set_ylabel("cost / OT")
    handles, names = pictures[0].get_legend_handles_labels()
    below.legend(handles, names, loc="outside right center", fontsize=10, frameon=False)
    below.supxlabel(seeds(drawn), fontsize=10)
    return write(figure, path)


def matching_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Who goes where: a row for each run, a column for each of three pairs.

    In the plane every source point is joined to the target point that gets most of its mass. In
    space the first row shows the sources, coloured by position, and a target point has the colour
    of the mean place it comes from.

    Args:
        runs: runs of tasks that share their dimension, with the arrays of `DriftExam` or of
            `PairsExam`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays, for clouds that are neither all in
            the plane nor all in space.
    """
    drawn = chosen(runs, ("source", "target", "partner", "cost", "optimum"))
    dimensions = {run["arrays"]["source"].shape[2] for run in drawn}
    if dimensions == {2}:
        return write(_plane_matching(drawn), path)
    if dimensions == {3}:
        return write(_space_matching(chosen(drawn, ("origin",))), path)
    raise ValueError(f"runs must hold clouds of 2 or of 3 dimensions, got {sorted(dimensions)}")


def level_curves(runs: Sequence[Run], path: str | Path) -> Path:
    """Level curves of pointwise slicers over the clouds they order; points of equal rank meet.

    Args:
        runs: runs of one drift task, with the arrays of `DriftExam`, `levels` among them.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = chosen(runs, ("source", "target", "level_x", "level_y", "levels", "cost", "optimum"))
    problems = spread(len(drawn[0]["arrays"]["levels"]), PAIR_COLUMNS)
    figure, grid = _grid(len(drawn), len(problems))
    for row, run in zip(grid, drawn, strict=True):
        arrays = run["arrays"]
        row[0].set_ylabel(label(run, drawn, ROW_LABEL_INCHES), fontsize=10)
        for panel, p in zip(row, problems, strict=True):
            clouds = arrays["source"][p], arrays["target"][p]
            scores = arrays["levels"][p]
            # Equally much of the plane lies between neighbouring curves: scores have no scale.
            heights = np.unique(np.quantile(scores, np.linspace(0.02, 0.98, LEVEL_LINES)))
            panel.contour(
                arrays["level_x"], arrays["level_y"], scores, heights, cmap="viridis",
                linewidths=1.1,
            )  # fmt: skip
            scatter(panel, clouds[0], LIGHT, 9)
            scatter(panel, clouds[1], INK, 9)
            plane(panel, clouds)
            panel.set_title(_priced(run, p, f"problem {p}"), fontsize=10)
    figure.supxlabel(f"orange: source; blue: target; {seeds(drawn)}", fontsize=10)
    return write(figure, path)


def ladder_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """What a small batch costs: the plan that was learned, and the bias of its price.

    Args:
        runs: runs of one ladder task, with the arrays of `LadderExam`; those without `sizes` are
            drawn as a level.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays, or none has sizes.
    """
    drawn = chosen(runs, ("cost", "held_out", "optimum"))
    climbing = [run for run in drawn if "sizes" in run["arrays"]]
    if not climbing:
        raise ValueError("runs must hold at least one that was trained on several batch sizes")
    figure = Figure(figsize=(WIDTH_INCHES, 5.2), layout="constrained")
    costs, biases = figure.subplots(1, 2)
    for run, colour in zip(drawn, colours(drawn), strict=True):
        arrays, name = run["arrays"], label(run, drawn, 2.6)
        if "sizes" not in arrays:
            costs.axhline(arrays["cost"][0], color=colour, linestyle=":", label=name)
            continue
        sizes = arrays["sizes"]
        costs.plot(sizes, arrays["cost"], "o-", color=colour, label=f"{name}, whole pair")
        costs.plot(sizes, arrays["held_out"], "s--", color=colour, label=f"{name}, held out")
        biases.errorbar(
            sizes, arrays["bias"], arrays["bias_error"], fmt="o", color=colour, capsize=3,
            label=name,
        )  # fmt: skip
        if "fit" in arrays:
            intercept, slope = arrays["fit"]
            biases.plot(
                sizes, np.exp(intercept) * sizes**slope, color=colour,
                label=f"slope {slope:.2f}",
            )  # fmt: skip
    first = climbing[0]["arrays"]
    sizes = first["sizes"]
    costs.plot(sizes, first["batch_optimum"], "^-", color=GREY, label="exact OT of batches")
    costs.axhline(first["optimum"], color="black", linestyle="--", linewidth=1, label="exact OT")
    root = first["bias"][0] * (sizes / sizes[0]) ** -0.5
    biases.plot(sizes, root, ":", color=GREY, label="slope -0.50")
    costs.set(xscale="log", xlabel="batch size in training", ylabel="ground cost")
    biases.set(
        xscale="log", yscale="log", xlabel="batch size in scoring",
        ylabel="bias of the cost of one slicer's plans",
    )  # fmt: skip
    biases.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    biases.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    biases.yaxis.set_minor_locator(NullLocator())
    for panel in (costs, biases):
        _ticks_at(panel, sizes)
        _plain(panel)
        panel.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    figure.supxlabel(seeds(drawn), fontsize=10)
    return write(figure, path)


def _cost_line(panel: Axes, run: Run, problem: int, colour: str, width: float) -> None:
    arrays = run["arrays"]
    if "curve" not in arrays:
        panel.axhline(arrays["cost"][-1, problem], color=colour, linestyle=":", linewidth=width)
        return
    iterations = arrays["curve_iterations"]
    panel.plot(iterations, arrays["curve"][problem], color=colour, linewidth=width)
    # The first steps change most, so they get most of the room.
    first = max(1, iterations[1]) if len(iterations) > 1 else 1
    panel.set_xscale("symlog", linthresh=first, linscale=0.5)
    _ticks_at(panel, [*arrays["iterations"]])
    panel.tick_params("x", labelsize=8)


def _plane_matching(drawn: Sequence[Run]) -> Figure:
    columns = min(PAIR_COLUMNS, *(len(run["arrays"]["source"]) for run in drawn))
    figure, grid = _grid(len(drawn), columns)
    for row, run in zip(grid, drawn, strict=True):
        arrays = run["arrays"]
        row[0].set_ylabel(label(run, drawn, ROW_LABEL_INCHES), fontsize=10)
        # A drift run has a plan for every number of iterations, the last is the trained one.
        partners = arrays["partner"][-1] if arrays["partner"].ndim == 3 else arrays["partner"]
        for panel, p in zip(row, spread(len(arrays["source"]), columns), strict=True):
            source, target = arrays["source"][p], arrays["target"][p]
            ends = np.stack((source, target[partners[p]]), axis=1)
            for line in ends:
                panel.plot(*line.T, color=GREY, linewidth=0.6, zorder=0)
            scatter(panel, source, LIGHT, 9)
            scatter(panel, target, INK, 9)
            plane(panel, (source, target))
            panel.set_title(_priced(run, p, f"problem {p}"), fontsize=10)
    figure.supxlabel(f"orange: source; blue: target; {seeds(drawn)}", fontsize=10)
    return figure


def _space_matching(drawn: Sequence[Run]) -> Figure:
    tasks = list(dict.fromkeys(run["task"] for run in drawn))
    columns = min(PAIR_COLUMNS, *(len(run["arrays"]["source"]) for run in drawn))
    rows = len(drawn) + len(tasks)
    figure = Figure(
        figsize=(1.3 * SPACE_SIDE * columns + 0.6, SPACE_SIDE * rows + 0.3), layout="constrained"
    )
    lines = iter(np.atleast_1d(figure.subfigures(rows, 1, hspace=0)))
    for task in tasks:
        members = [run for run in drawn if run["task"] == task]
        arrays = members[0]["arrays"]
        shades = [_colour_of(source) for source in arrays["source"]]
        name = f"{task_name(members[0])}: source" if len(tasks) > 1 else "source"
        _space_row(
            next(lines), name, arrays["source"][:columns],
            [shade(source) for shade, source in zip(shades, arrays["source"], strict=True)],
            [f"pair {p}" for p in range(columns)],
        )  # fmt: skip
        for run in members:
            arrays = run["arrays"]
            _space_row(
                next(lines), label(run, drawn, SPACE_SIDE - 0.4), arrays["target"][:columns],
                [shade(origin) for shade, origin in zip(shades, arrays["origin"], strict=True)],
                [_priced(run, p) for p in range(columns)],
            )  # fmt: skip
    figure.supxlabel(
        f"a target point has the colour of the source points it comes from; {seeds(drawn)}",
        fontsize=10,
    )
    return figure


def _space_row(
    line: SubFigure,
    name: str,
    clouds: Sequence[np.ndarray],
    shades: Sequence[np.ndarray],
    titles: Sequence[str],
) -> None:
    line.supylabel(name, fontsize=10)
    panels = line.subplots(1, len(clouds), squeeze=False)[0]
    for panel, cloud, shade, title in zip(panels, clouds, shades, titles, strict=False):
        flat, depth = _seen(cloud)
        order = np.argsort(-depth)  # what is near covers what is behind it
        panel.scatter(*flat[order].T, c=shade[order], s=8, linewidths=0)
        panel.set_aspect("equal")
        panel.set_axis_off()
        panel.set_title(title, fontsize=10)


def _seen(cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3), the third axis up, seen from a fixed place: (n, 2) and their depth (n,)."""
    turn, tilt = np.radians(VIEW_DEGREES)
    across = cloud[:, 0] * np.cos(turn) - cloud[:, 1] * np.sin(turn)
    away = cloud[:, 0] * np.sin(turn) + cloud[:, 1] * np.cos(turn)
    up = cloud[:, 2] * np.cos(tilt) + away * np.sin(tilt)
    return np.stack((across, up), axis=1), away * np.cos(tilt) - cloud[:, 2] * np.sin(tilt)


def _colour_of(cloud: np.ndarray):
    """A function from places (n, 3) to colours (n, 3), spread over the cloud's extent."""
    low, high = np.quantile(cloud, (0.02, 0.98), axis=0)

    def shade(places: np.ndarray) -> np.ndarray:
        share = np.clip((places - low) / np.maximum(high - low, 1e-9), 0, 1)
        return 0.05 + 0.85 * share

    return shade


def _priced(run: Run, index: int, what: str = "") -> str:
    """The title of a pair: its cost as a multiple of the optimum."""
    arrays = run["arrays"]
    cost = arrays["cost"][-1] if arrays["cost"].ndim == 2 else arrays["cost"]
    ratio = cost[index] / arrays["optimum"][index]
    return f"{what}{': ' if what else ''}{ratio:.3f} x OT"


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    side = min(4.2, (WIDTH_INCHES - 0.5) / columns)
    figure = Figure(
        figsize=(columns * side + 0.5, rows * (side + 0.25) + 0.3), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def _ticks_at(panel: Axes, places: Sequence[float]) -> None:
    panel.set_xticks(places)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_minor_locator(NullLocator())


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(True, color="#eceef1", linewidth=0.8)
    panel.set_axisbelow(True)
