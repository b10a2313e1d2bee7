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


def one_sided(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """The mean and its one-sided t bounds, or None where nothing bounds it.

    With paired differences as `values` this is the paired one-sided t test: the mean is above
    zero at the level `1 - confidence` exactly when `lower > 0`. Equal values have no spread to
    judge by: like a sign test, so many that they are rarer than the level bound themselves, and
    fewer bound nothing.
    """
    spread = sample_std(values)
    if spread is None:
        return None
    centre, n = mean(values), len(values)
    if min(values) < max(values):
        reach = t_quantile(confidence, n - 1) * spread / math.sqrt(n)
        return Interval(centre, centre - reach, centre + reach, n)
    return Interval(centre, centre, centre, n) if 0.5**n <= 1 - confidence else None


def chance_of_falling_short(values: Sequence[float], edge: float) -> float:
    """How often a mean at `edge` would show a mean this low or lower: a one-sided t test.

    Equal values are judged by a sign test. Fewer than two say nothing: 1.
    """
    spread = sample_std(values)
    if spread is None:
        return 1.0
    short = mean(values) - edge
    if spread == 0:
        return 0.5 ** len(values) if short < 0 else 1.0
    return t_cdf(short * math.sqrt(len(values)) / spread, len(values) - 1)


@lru_cache(maxsize=4096)
def share_bounds(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """One-sided bounds of a share after Clopper and Pearson (1934), exact for every count.

    Raises:
        ValueError: for a count outside 0 to n, or no trial.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0 to n with n >= 1, got {successes} of {n}")
    level = 1 - confidence
    upper = 1.0 if successes == n else _share_where(successes, n, level)
    lower = 0.0 if successes == 0 else 1 - _share_where(n - successes, n, level)
    return lower, upper


def _share_where(successes: int, n: int, probability: float) -> float:
    """The share at which at most so many successes have this probability, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(successes, n, middle) > probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(successes: int, n: int, share: float) -> float:
    """The binomial distribution function, as a regularised incomplete beta function (Abramowitz
    and Stegun 26.5.24); its continued fraction (DLMF 8.17.22) converges fast on one side."""
    a, b, x = n - successes, successes + 1, 1 - share
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_fraction(b, a, share)
    return _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The incomplete beta function over the complete one, by modified Lentz; quick where x lies
    below its mean."""
    if x <= 0:
        return 0.0
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):  # about the root of a + b terms are enough
        before = fraction
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(logs + a * math.log(x) + b * math.log1p(-x)) / a * fraction


def refuted(chances: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses fall at a joint level, after Holm (1979): the chance that any
    true one is refuted stays below `level` however many there are."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    falls = [False] * len(chances)
    for rank, index in enumerate(order):
        if chances[index] > level / (len(chances) - rank):
            break
        falls[index] = True
    return falls
