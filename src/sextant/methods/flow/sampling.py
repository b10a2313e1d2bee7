"""From source to data: Euler steps on the average velocity, or on the velocity."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from sextant.methods.numerics import check_not_half, widened
from sextant.ranges import at_least

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`velocity(z, t, h, labels)`, a network or a closed form; z (n, *shape), t and h (n,)."""


def sample(
    velocity: Velocity,
    source: Tensor,
    steps: int,
    labels: Tensor | None = None,
    averages: bool = True,
) -> Tensor:
    """Carries source (n, *shape) from t = 1 to t = 0 with exactly `steps` evaluations.

    Steps are added up in float32 (float64 for a float64 source).

    On the even grid 1 = t_0 > ... > t_steps = 0 each step is
    z <- z - (t_k - t_{k+1}) velocity(z, t_k, h): with `averages` h = t_k - t_{k+1} (MeanFlow, where
    a step of any length is exact for a perfect network), else h = 0 (Euler's method).

    Raises:
        ValueError: for fewer than one step.
        TypeError: for a network in half precision.
    """
    at_least(1, steps=steps)
    grid = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist()
    check_not_half(velocity, "velocity")
    z = source = widened(source)
    for t, r in itertools.pairwise(grid):
        length = t - r
        times = source.new_full((len(source),), t)
        lengths = torch.full_like(times, length if averages else 0.0)
        z = z - length * velocity(z, times, lengths, labels)
    return z
