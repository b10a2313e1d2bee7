"""Asking a student in chunks, and marks from what it answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Score

CHUNK = 250  # small enough to stay in a core's cache: a third faster than 1000
KEPT_POINTS = 2000


def checked_steps(steps: Sequence[int]) -> list[int]:
    """The numbers of network evaluations as a list.

    Raises:
        ValueError: when it is empty, holds a number below 1 or one twice.
    """
    steps = [int(k) for k in steps]
    if not steps or min(steps) < 1 or len(set(steps)) != len(steps):
        raise ValueError(f"steps must be distinct whole numbers of at least 1, got {steps}")
    return steps


def generated(student: Any, source: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
    """What the student makes of the source, float32 on the CPU, shape as the source.

    Raises:
        ValueError: for samples of another shape.
        FloatingPointError: for samples that are not finite.
    """
    with torch.no_grad():
        samples = student.generate(source, steps, labels).float().cpu()
    if samples.shape != source.shape:
        raise ValueError(
            f"generate must return shape {tuple(source.shape)}, got {tuple(samples.shape)}"
        )
    if not torch.isfinite(samples).all():
        raise FloatingPointError(f"samples of {steps} steps are not finite, so the run diverged")
    return samples


def in_chunks(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The function's outputs (n, ...) for inputs (n, ...), without gradients, on the CPU."""
    with torch.no_grad():
        return torch.cat([function(chunk).float().cpu() for chunk in inputs.split(CHUNK)])


def share(correct: Tensor) -> Score:
    """The share of true entries (n,) with its binomial standard error."""
    n, value = len(correct), float(correct.double().mean())
    return Score(value, n, "higher", math.sqrt(value * (1 - value) / n))


def mean_score(values: Tensor, better: str) -> Score:
    """The mean of one value an example (n,) with its standard error (none for one example)."""
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else None
    return Score(float(values.mean()), n, better, error)


def kept(points: Tensor) -> np.ndarray:
    """The first points as float32, enough for a figure."""
    return points[:KEPT_POINTS].float().cpu().numpy()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread inside, so that times of students can be compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
