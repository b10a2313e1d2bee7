"""Means, spreads and Student's t in the standard library, so tables need no scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values must hold at least one number, got none")
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """The standard deviation with n - 1 below, or None for fewer than two values."""
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return 0.0  # exactly, where the rounded mean would leave a speck
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def t_cdf(t: float, dof: int) -> float:
    """Student's t distribution function for a whole number of degrees of freedom.

    The finite trigonometric series of Abramowitz and Stegun (26.7.3 for odd, 26.7.4 for even).

    Raises:
        ValueError: `dof` is below 1, or `t` is not a number.
    """
    if dof < 1:
        raise ValueError(f"dof must be a whole number >= 1, got {dof}")
    if math.isnan(t):
        raise ValueError("t must be a number, got nan")
    theta = math.atan2(abs(t), math.sqrt(dof))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = dof % 2 == 1
    term = cosine if odd else 1.0
    terms = [] if dof == 1 else [term]
    for k in range(3 if odd else 2, dof - 1, 2):
        term *= cosine**2 * (k - 1) / k
        terms.append(term)
    inside = math.fsum(terms) * sine
    share = (theta + inside) * 2 / math.pi if odd else inside  # P(|T| < |t|)
    return 0.5 + math.copysign(min(share, 1.0) / 2, t)


@lru_cache(maxsize=256)
def t_quantile(probability: float, dof: int) -> float:
    """The t with `t_cdf(t, dof) == probability`, by bisection to the last bit.

    Raises:
        ValueError: `probability` is not strictly between 0 and 1, or `dof` is below 1.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, dof)
    low, high = 0.0, 1.0
    while t_cdf(high, dof) < probability:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if t_cdf(middle, dof) < probability:
            low = middle
        else:
            high = middle


@dataclass(frozen=True)
class Interval:
    """A mean with one-sided bounds: each bound alone is crossed with probability 1 - confidence."""

    mean: float
    lower: float
    upper: float
    n: int

    @property
    def decides(self) -> bool:
        """Whether the bounds mean anything: two equal values say nothing of their spread."""
        return self.n > 2 or self.lower < self.upper


def one_sided(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """The mean and its one-sided t bounds, or None for fewer than two values.

    With paired differences as `values` this is the paired one-sided t test: the mean is above
    zero at the level `1 - confidence` exactly when `lower > 0`.
    """
    spread = sample_std(values)
    if spread is None:
        return None
    centre, n = mean(values), len(values)
    reach = t_quantile(confidence, n - 1) * spread / math.sqrt(n) if spread > 0 else 0.0
    return Interval(centre, centre - reach, centre + reach, n)
