"""Figures of the unlearning tables, pure functions of the arrays that the exams saved.

A run is a mapping with `task`, `method`, `method_label`, `seed`, `arrays` and `scores`; the lowest
seed of every method is drawn, in the order of the list.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES = 14.0
DOTS_PER_INCH = 100
GREY, INK, WARM = "#b9bec6", "#1d5fa6", "#c8553d"
COLOURS = (INK, WARM, "#3c8d5a", "#8a5fb0", "#d39a1f", "#4aa3b5", "#7a5c45", "#d16a9c")
LETTERS_AN_INCH = 12.0  # of a title, at ten points
CURVE = ("curve_epoch", "curve_forgotten", "curve_test_retained")
CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip

Run = Mapping[str, Any]


def proxy_images(runs: Sequence[Run], path: str | Path) -> Path:
    """The images that each method protected, a class a column, above real pictures.

    Args:
        runs: runs with the arrays `proxy_images` and `real_images`.
        path: where the picture is written; its suffix chooses the format.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = _chosen(runs, ("proxy_images", "real_images"))
    parts = [(run["method_label"], run["arrays"]["proxy_images"]) for run in drawn]
    parts.append(("real pictures", drawn[0]["arrays"]["real_images"]))
    kept = len(drawn[0]["arrays"]["confusion"]) - len(drawn[0]["arrays"]["forgotten_classes"])
    height = WIDTH_INCHES / kept * max(len(images) // kept for _, images in parts)
    shown = 0.62 * height
    figure = Figure(figsize=(WIDTH_INCHES, len(parts) * (shown + 0.35)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for panel, (name, images) in zip(panels, parts, strict=True):
        panel.imshow(_mosaic(images, kept), interpolation="nearest", cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{name}, seed {drawn[0]['seed']}", fontsize=10)
        panel.set_axis_off()
    return _write(figure, path)


def forgetting_curves(runs: Sequence[Run], path: str | Path) -> Path:
    """Accuracy on kept and forgotten pictures after each epoch, a line a method.

    A method without epochs is not drawn.

    Args:
        runs: runs with the arrays `curve_epoch`, `curve_forgotten` and `curve_test_retained`.
        path: where the picture is written.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = _chosen(runs, CURVE)
    figure = Figure(figsize=(WIDTH_INCHES, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    names = {
        "curve_forgotten": "training pictures to forget",
        "curve_test_retained": "test pictures of what is kept",
    }
    for panel, (array, title) in zip(panels, names.items(), strict=True):
        for place, run in enumerate(drawn):
            panel.plot(
                run["arrays"]["curve_epoch"],
                100 * run["arrays"][array],
                marker="o",
                markersize=3,
                color=COLOURS[place % len(COLOURS)],
                linestyle="--" if place >= len(COLOURS) else "-",
                label=run["method_label"],
            )
        panel.set(title=title, xlabel="epoch of unlearning", ylim=(-3, 103))
        _plain(panel)
    panels[0].set_ylabel("named rightly, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return _write(figure, path)


def confusion_of_forgotten(runs: Sequence[Run], path: str | Path) -> Path:
    """What test pictures of the forgotten class are called, a line a method, in percent.

    Args:
        runs: runs with the arrays `confusion` and one of `forgotten_classes`.
        path: where the picture is written.

    Raises:
        ValueError: when no run has the arrays, or no class was forgotten whole.
    """
    drawn = [
        run
        for run in _chosen(runs, ("confusion", "forgotten_classes"))
        if len(run["arrays"]["forgotten_classes"])
    ]
    if not drawn:
        raise ValueError("runs must hold one that forgot a class, got none")
    gone = int(drawn[0]["arrays"]["forgotten_classes"][0])
    counts = np.stack([run["arrays"]["confusion"][gone] for run in drawn])
    shares = 100 * counts / counts.sum(1, keepdims=True)
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.36 * len(drawn)), layout="constrained")
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (line, column), share in np.ndenumerate(shares):
        colour = "white" if share > 55 else "black"
        panel.text(column, line, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    panel.set_yticks(range(len(drawn)), [run["method_label"] for run in drawn])
    names = _class_names(drawn[0]["task"], shares.shape[1])
    panel.set_xticks(range(shares.shape[1]), names)
    panel.axvline(gone - 0.5, color=WARM)
    panel.axvline(gone + 0.5, color=WARM)
    panel.set_title(
        f"names given to test pictures of {names[gone]}, in %; seed {drawn[0]['seed']}", fontsize=10
    )
    return _write(figure, path)


def feature_maps(runs: Sequence[Run], path: str | Path) -> Path:
    """Features of test pictures in the plane in which those of the trained model spread most.

    Every panel shares the plane of the first run, so that what moved can be seen. The forgotten
    classes are in colour, the others in greys.

    Args:
        runs: runs of one problem with the arrays `features`, `feature_labels` and
            `forgotten_classes`.
        path: where the picture is written.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = _chosen(runs, ("features", "feature_labels", "forgotten_classes"))
    first = drawn[0]["arrays"]["features"].astype(np.float64)
    centre = first.mean(0)
    plane = np.linalg.svd(first - centre, full_matrices=False)[2][:2].T
    spots = [(run["arrays"]["features"].astype(np.float64) - centre) @ plane for run in drawn]
    side = WIDTH_INCHES / len(drawn)
    figure = Figure(figsize=(WIDTH_INCHES, side + 0.9), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    low, high = np.percentile(np.concatenate(spots), [0.5, 99.5], axis=0)
    labels = drawn[0]["arrays"]["feature_labels"]
    forgotten = drawn[0]["arrays"]["forgotten_classes"]
    names = _class_names(drawn[0]["task"], int(labels.max()) + 1)
    # The forgotten last, so that they lie on top.
    order = sorted(np.unique(labels).tolist(), key=lambda label: label in forgotten)
    for panel, run, points in zip(panels, drawn, spots, strict=True):
        for label in order:
            gone = label in forgotten
            panel.scatter(
                *points[labels == label].T,
                s=12 if gone else 9,
                color=WARM if gone else colormaps["Greys"]((label + 8) / 22),
                label=f"{names[label]}, forgotten" if gone else names[label],
            )
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
        panel.spines[:].set_color(GREY)
        panel.set_title(
            textwrap.fill(run["method_label"], int(side * LETTERS_AN_INCH)), fontsize=10
        )
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(order),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.2,
    )
    return _write(figure, path)


def strength_curves(runs: Sequence[Run], path: str | Path) -> Path:
    """Where each strength of each projector ends: test accuracy kept against steps and forgotten.

    Left, the ways there, epoch by epoch; right, kept accuracy at the end for every strength. The
    points on the left are written beside the picture too, as a CSV of the same name.

    Args:
        runs: runs with the arrays `curve_epoch`, `curve_forgotten` and `curve_test_retained`; the
            method's label begins with the name of its projector.
        path: where the picture is written.

    Raises:
        ValueError: when no run has the arrays.
    """
    drawn = _chosen(runs, CURVE)
    figure = Figure(figsize=(WIDTH_INCHES, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    families: dict[str, list[Run]] = {}
    for run in drawn:
        families.setdefault(run["method_label"].partition(",")[0], []).append(run)
    for place, (family, members) in enumerate(families.items()):
        colour = COLOURS[place]
        for number, run in enumerate(members):
            left.plot(
                100 * run["arrays"]["curve_forgotten"],
                100 * run["arrays"]["curve_test_retained"],
                color=colour,
                alpha=0.35 + 0.65 * number / max(1, len(members) - 1),
                marker="o",
                markersize=3,
                label=family if number == len(members) - 1 else None,
            )
        kept = [_value(run, "test_retained") for run in members]
        right.plot(range(len(members)), kept, color=colour, marker="o", label=family)
        for number, run in enumerate(members):
            strength = run["method_label"].partition(",")[2].strip()
            right.annotate(
                strength, (number, kept[number]), fontsize=8, xytext=(4, 4), color=colour,
                textcoords="offset points",
            )  # fmt: skip
    left.set(
        title="epoch by epoch; stronger lines are later ones of the list",
        xlabel="training pictures to forget named rightly, %",
        ylabel="test pictures of what is kept named rightly, %",
    )
    right.set(title="at the end", xlabel="strengths in the order of the list", xticks=[])
    right.set_ylabel("test pictures of what is kept named rightly, %")
    for panel in (left, right):
        _plain(panel)
    left.invert_xaxis()
    left.legend(frameon=False)
    written = _write(figure, path)
    _write_points(drawn, written.with_suffix(".csv"))
    return written


def _chosen(runs: Sequence[Run], arrays: Sequence[str]) -> list[Run]:
    lowest: dict[str, Run] = {}
    for run in runs:
        if all(name in run["arrays"] for name in arrays):
            known = lowest.setdefault(run["method"], run)
            if run["seed"] < known["seed"]:
                lowest[run["method"]] = run
    if not lowest:
        raise ValueError(f"runs must hold one with the arrays {', '.join(arrays)}, got none")
    return list(lowest.values())


def _value(run: Run, score: str) -> float:
    value = run["scores"][score]
    return float(value["value"] if isinstance(value, Mapping) else value)


def _class_names(task: str, classes: int) -> list[str]:
    """What classes are called: CIFAR-10's by name, people by number."""
    if "cifar10" in task and classes <= len(CIFAR10):
        return list(CIFAR10[:classes])
    return [f"{'person' if 'faces' in task else 'class'} {number}" for number in range(classes)]


def _write_points(runs: Sequence[Run], path: Path) -> None:
    """Forgotten and kept accuracy after every epoch, in percent, a line an epoch and run."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("row", "seed", "epoch", "forgotten", "test_retained"))
        for run in runs:
            columns = (run["arrays"][name] for name in CURVE)
            for epoch, *shares in zip(*columns, strict=True):
                accuracies = (f"{100 * share:.2f}" for share in shares)
                lines.writerow((run["method_label"], run["seed"], int(epoch), *accuracies))


def _mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (columns * lines, channels, side, side), class after class, with a white pixel
    between them: (height, width, 3)."""
    lines = len(images) // columns
    images = images[: lines * columns].reshape(columns, lines, *images.shape[1:])
    images = np.pad(images, [(0, 0)] * 3 + [(0, 1), (0, 1)], constant_values=1.0)
    images = images.transpose(1, 3, 0, 4, 2)
    flat = images.reshape(lines * images.shape[1], columns * images.shape[3], -1)
    return flat if flat.shape[2] == 3 else flat.repeat(3, 2)


def _plain(panel: Axes) -> None:
    panel.grid(color=GREY, alpha=0.35)
    panel.spines[:].set_color(GREY)


def _write(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file would otherwise name the library's version.
    metadata = {"Software": None} if path.suffix == ".png" else None
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
    return path
