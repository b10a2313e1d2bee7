"""The file of a run's curves, curves.csv: `step,metric,value`, the metrics of a step together."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sextant.files import disk_errors, replace_file

HEADER = ("step", "metric", "value")
END_BYTES = 1 << 16  # what is read where the last values are enough


class Curves:
    """Writes the file of a run.

    A checkpoint keeps the text up to its step, so a resumed run writes the file anew, whatever
    became of it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = _as_csv([HEADER])

    def write(self) -> None:
        """Writes the file as the run knows it."""
        replace_file(self.path, lambda path: path.write_text(self.text, newline=""))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds what a step logged."""
        rows = _as_csv([step, name, value] for name, value in metrics.items())
        self.text += rows
        with disk_errors(self.path), self.path.open("a", newline="") as file:
            file.write(rows)


def _as_csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


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
