"""The file of a run's curves, curves.csv: `step,metric,value`, the metrics of a step together."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

HEADER = ("step", "metric", "value")
END_BYTES = 1 << 16  # what is read where the last values are enough


def add(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Adds what a step logged."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([step, name, value] for name, value in metrics.items())


def keep_until(path: Path, step: int) -> None:
    """Begins the file, or takes back what follows the step a run resumes at."""
    kept = [row for row in _rows(path) if row[0] <= step]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *kept])


def steps(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The metrics of each step; nothing where there is no file."""
    for step, rows in groupby(_rows(path), key=lambda row: row[0]):
        yield step, {metric: value for _, metric, value in rows}


def by_metric(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The points (step, value) of each metric, without values that are not finite."""
    found: dict[str, list[tuple[float, float]]] = {}
    for step, metric, value in _rows(path):
        if math.isfinite(value):
            found.setdefault(metric, []).append((float(step), value))
    return found


def last_values(path: Path, metric: str) -> list[float]:
    """The last values of a metric, from the end of a file that may be long."""
    return [value for _, name, value in _rows(path, END_BYTES) if name == metric]


def _rows(path: Path, at_the_end: int | None = None) -> Iterator[tuple[int, str, float]]:
    """Step, metric and value of every whole line; a run may be writing the last one.

    Args:
        at_the_end: the bytes to read, where not the whole file is wanted.
    """
    try:
        with path.open("rb") as file:
            if at_the_end is not None:
                file.seek(max(0, path.stat().st_size - at_the_end))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines[1:]:  # the header, or half a line
        try:
            step, metric, value = line.split(",")
            yield int(step), metric, float(value)
        except ValueError:
            continue
