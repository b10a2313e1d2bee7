"""The exam of a kernel fit; `version` in a task's config counts its changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Streams
from sextant.ranges import at_least
from tasks.shared.scoring import mean_score

SMALLEST_WEIGHT = 1e-12
"""Weights count as no smaller, so that an answer of 0 costs much, but not everything."""
TOLERANCE = 1e-4
"""How far from 1 the sum of an answered row may be."""


class KernelFitExam:
    """How close a student's rows of attention are to those of the target kernel.

    `kl`: the mean of KL(target || row) over all rows of the exam's batches, in nats, with the
    standard error over sets of queries and keys, which are independent. 0 is a perfect fit.

    Arrays: `target_rows` and `fitted_rows`, float32 (rows, n), the first rows of the first set; and
    where the student offers `channel_functions` and has some, `channel_arguments` (points,) and
    `channel_values` (points, L), float32.

    Args:
        kept_rows: rows that are kept for figures.

    Raises:
        ValueError: for no rows to keep, or an answer that is not rows of probabilities.
        FloatingPointError: for an answer that is not finite.
    """

    def __init__(self, kept_rows: int = 16) -> None:
        at_least(1, kept_rows=kept_rows)
        self.kept_rows = kept_rows

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks for the rows of every evaluation batch."""
        divergences: list[Tensor] = []
        arrays: dict[str, Tensor] = {}
        for queries, keys, target in data.evaluation():
            rows = student.rows(queries, keys)
            check_rows(rows, target)
            divergences.append(divergence(target, rows).mean(-1))
            if len(divergences) == 1:
                arrays = {
                    "target_rows": target[0, : self.kept_rows],
                    "fitted_rows": rows[0, : self.kept_rows],
                    **channels(student, torch.cat((queries, keys), 1)),
                }
        return Examination(
            {"kl": mean_score(torch.cat(divergences), "lower")},
            {name: array.float().cpu().numpy() for name, array in arrays.items()},
        )


def channels(student: Any, tokens: Tensor) -> dict[str, Tensor]:
    """The channel functions' arrays, empty where the student has none."""
    ask = getattr(student, "channel_functions", None)
    found = None if ask is None else ask(tokens)
    if found is None:
        return {}
    return dict(zip(("channel_arguments", "channel_values"), found, strict=True))


def divergence(target: Tensor, rows: Tensor) -> Tensor:
    """KL(target || row) of every row (..., m), float64 (...), where 0 log 0 = 0."""
    target, rows = target.double().cpu(), rows.double().cpu().clamp(min=SMALLEST_WEIGHT)
    return (torch.special.xlogy(target, target) - target * rows.log()).sum(-1)


def check_rows(rows: Tensor, target: Tensor) -> None:
    """Raises as `KernelFitExam` says."""
    if rows.shape != target.shape:
        raise ValueError(f"rows must be {tuple(target.shape)}, got {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise FloatingPointError("rows are not finite, so the run diverged")
    if (rows < 0).any() or ((rows.sum(-1) - 1.0).abs() > TOLERANCE).any():
        raise ValueError("rows must not be negative and must have the sum 1")
