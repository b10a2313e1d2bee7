"""Figures of doubly stochastic attention, pure functions of the arrays that the exams saved.

A run is a mapping with `task`, `task_label`, `method`, `method_label`, `seed`, `arrays` and
`scores`. Of several seeds the lowest is drawn, and the caption line says so, unless every seed is a
dot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tasks.shared.drawing import COLOURS, GREY, INK, WIDTH_INCHES, Run, chosen, seeds, write

QUERIES = np.array([[0.93, 0.58], [0.097, 0.005], [0.575, 0.715]])
KEYS = np.array([[1.175, 0.90], [1.305, 1.455], [0.96, 0.31]])
"""The points of the paper's toy figure, read off it by eye."""
PRINTED = {(1, 2, 3): 2.0, (1, 3, 2): 32.7, (2, 1, 3): 0.0, (2, 3, 1): 45.8, (3, 1, 2): 11.8,
           (3, 2, 1): 7.7}  # fmt: skip
"""Percent of directions there that give each order of the keys."""
ANGLES = 20_000
SHOWN_TOKENS = 4
"""Queries whose weights are drawn, beside the class token's."""


def runtime_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Milliseconds of a call without a gradient against the number of tokens, both on log scales.

    Args:
        runs: runs with arrays `lengths` and `forward_ms`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    shown = chosen(runs, ("lengths", "forward_ms"))
    figure = Figure(figsize=(WIDTH_INCHES / 2, 5.0), layout="constrained")
    panel = figure.subplots()
    for run, colour in zip(shown, COLOURS, strict=False):
        lengths, times = run["arrays"]["lengths"], run["arrays"]["forward_ms"]
        panel.plot(lengths, times, marker="o", color=colour, label=run["method_label"])
    panel.set(xscale="log", yscale="log", xlabel="tokens N", ylabel="milliseconds")
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
    panel.minorticks_off()
    panel.legend(fontsize=9, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"one CPU thread; {seeds(shown)}", fontsize=9, color="#5a6068")
    return write(figure, path)


def shares_of_orders() -> dict[tuple[int, ...], float]:
    """Percent of directions of the plane that match queries 1, 2, 3 with each order of the keys."""
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    directions = np.stack((np.cos(angles), np.sin(angles)))
    first, second = ((points @ directions).argsort(0) for points in (QUERIES, KEYS))
    orders = np.empty_like(first)
    np.put_along_axis(orders, first, second, 0)
    found = dict.fromkeys(PRINTED, 0.0)
    for order, count in zip(*np.unique(orders.T + 1, axis=0, return_counts=True), strict=True):
        found[tuple(order.tolist())] = 100 * float(count) / ANGLES
    return found


def toy_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """The toy's points, the shares of directions beside the printed ones, and the cheapest order.

    Computed exactly, on a grid of directions, from the points; the runs are not looked at.
    """
    shares = shares_of_orders()
    costs = {
        order: np.square(QUERIES - KEYS[np.array(order) - 1]).sum(1).mean() for order in shares
    }
    cheapest = min(costs, key=costs.get)
    figure = Figure(figsize=(WIDTH_INCHES * 0.75, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for points, colour, name in ((QUERIES, INK, "query"), (KEYS, COLOURS[1], "key")):
        left.scatter(*points.T, s=60, color=colour, label=name, zorder=2)
        for number, point in enumerate(points, 1):
            left.annotate(str(number), point, (6, 4), textcoords="offset points", color=colour)
    for query, key in enumerate(cheapest):
        left.plot(*np.stack((QUERIES[query], KEYS[key - 1])).T, color=GREY, zorder=1)
    left.set_aspect("equal")
    left.set_title("the cheapest order, all that a large tau leaves", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    places = np.arange(len(shares))
    for offset, values, colour, name in (
        (-0.2, shares, INK, "computed"),
        (0.2, PRINTED, GREY, "printed"),
    ):
        heights = [values[order] for order in shares]
        bars = right.bar(places + offset, heights, 0.38, color=colour, label=name)
        right.bar_label(bars, fmt="%.1f", fontsize=8)
    right.set_xticks(places, ["".join(map(str, order)) for order in shares])
    right.set_xlabel("keys matched with queries 1, 2, 3")
    right.set_ylabel("% of directions")
    right.set_title("tau = 0: every direction weighs alike", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    return write(figure, path)


def share_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """Test accuracy against the share of the data: a line through the means, a dot a seed.

    Args:
        runs: runs with the score `accuracy` whose task label begins with the share, as "10 %".
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the score.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        if "accuracy" in run["scores"]:
            share = float(run["task_label"].partition("%")[0])
            line = found.setdefault(run["method_label"], {})
            line.setdefault(share, []).append(_value(run["scores"]["accuracy"]))
    if not found:
        raise ValueError("runs must hold one with the score accuracy, got none")
    shares = sorted({share for line in found.values() for share in line})
    figure = Figure(figsize=(WIDTH_INCHES / 2, 5.0), layout="constrained")
    panel = figure.subplots()
    for number, (label, line) in enumerate(found.items()):
        # Lines stand a little beside each other, so that dots do not hide dots.
        places = np.arange(len(shares)) + 0.06 * (number - (len(found) - 1) / 2)
        colour = COLOURS[number % len(COLOURS)]
        known = [(x, line[share]) for x, share in zip(places, shares, strict=True) if share in line]
        panel.plot(
            *zip(*((x, np.mean(v)) for x, v in known), strict=True), color=colour, label=label
        )
        for x, values in known:
            panel.scatter([x] * len(values), values, s=14, color=colour, alpha=0.7, linewidths=0)
    panel.set_xticks(range(len(shares)), [f"{share:g} %" for share in shares])
    panel.set(xlabel="share of the training photos", ylabel="test accuracy, %")
    panel.legend(fontsize=8, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    return write(figure, path)


def attention_figure(runs: Sequence[Run], path: str | Path) -> Path:
    """What some tokens of one picture attend to: a line a method, a panel a query.

    First layer, mean over heads; the class token's row comes first, then a few patches spread over
    the picture, each framed. Weights of one method share a scale; the class token as a key is left
    out.

    Args:
        runs: runs with arrays `attention` and `specimen`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    shown = chosen(runs, ("attention", "specimen"))
    shown = [run for run in shown if run["task"] == shown[-1]["task"]]
    columns = SHOWN_TOKENS + 2
    figure = Figure(figsize=(1.75 * columns, 1.9 * len(shown) + 0.4), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for axes, run in zip(grid, shown, strict=True):
        rows = run["arrays"]["attention"][0].mean(0)
        patches = round(np.sqrt(len(rows) - 1))
        picture = run["arrays"]["specimen"]
        picture = (picture - picture.min()) / (picture.max() - picture.min())
        axes[0].imshow(picture.transpose(1, 2, 0).squeeze(), cmap="gray")
        axes[0].set_ylabel(run["method_label"], fontsize=8)
        spread = np.linspace(patches // 2, len(rows) - 1 - patches // 2, SHOWN_TOKENS)
        for panel, token in zip(axes[1:], [0, *spread.round().astype(int)], strict=True):
            weights = rows[token, 1:].reshape(patches, patches)
            panel.imshow(weights, cmap="viridis", vmin=min(0.0, rows.min()), vmax=rows[:, 1:].max())
            if token:
                line, column = divmod(token - 1, patches)
                frame = [column - 0.5, column + 0.5, column + 0.5, column - 0.5, column - 0.5]
                edge = [line - 0.5, line - 0.5, line + 0.5, line + 0.5, line - 0.5]
                panel.plot(frame, edge, color="white", linewidth=1.5)
            panel.set_title("class token" if token == 0 else f"patch {token}", fontsize=8)
        for panel in axes:
            panel.set_xticks([])
            panel.set_yticks([])
    figure.supxlabel(f"first layer, mean over heads; {seeds(shown)}", fontsize=9)
    return write(figure, path)


def _value(score: object) -> float:
    return float(score["value"] if isinstance(score, Mapping) else score)
