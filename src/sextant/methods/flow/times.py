"""Laws of the training times, and pairs of times 0 <= r <= t <= 1 drawn from them.

Which rows get r = t is drawn for each row and never decided by its place in the batch: a coupling
may return its pairs in a meaningful order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sextant.ranges import positive, within

TimeLaw = Callable[[int, Generator], Tensor]
"""`law(n, generator)` draws times (n,) in [0, 1] on the generator's device."""


class Uniform:
    """Times uniform on [0, 1)."""

    def __call__(self, n: int, generator: Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device)


class LogitNormal:
    """sigmoid(mean + std N(0, 1)): median sigmoid(mean), as in MeanFlow (arXiv 2505.13447).

    Raises:
        ValueError: for a std that is not positive.
    """

    def __init__(self, mean: float = -0.4, std: float = 1.0) -> None:
        positive(std=std)
        self.mean, self.std = mean, std

    def __call__(self, n: int, generator: Generator) -> Tensor:
        normal = torch.randn(n, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.std * normal)


def draw_intervals(
    law: TimeLaw, share_r_below_t: float, n: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """(r, t), each (n,): two draws of the law sorted, then r = t with chance 1 - share_r_below_t.

    The order of the reference implementation: t is the larger of two draws on every row.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    within("[0, 1]", share_r_below_t=share_r_below_t)
    first, second = law(2 * n, generator).view(2, n)
    t = torch.maximum(first, second)
    apart = torch.rand(n, generator=generator, device=generator.device) < share_r_below_t
    return torch.where(apart, torch.minimum(first, second), t), t
