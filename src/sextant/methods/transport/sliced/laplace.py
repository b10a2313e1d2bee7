"""Laplace sums on the line, in O(n log n) time and O(n) memory (arXiv 2511.19741).

The soft permutation is made of the distribution function L of the Laplace law: L(x) = e^x / 2 up to
0 and 1 - e^-x / 2 beyond. Between two neighbouring points of a line, a sum of such functions has
two terms, one for all points on the left and one for all on the right; so a sum over n points at n
places costs a scan, and the place where the sum takes a given value is the root of a quadratic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sextant.methods.numerics import check_floating
from sextant.ranges import positive

LONGEST_GAP = 80.0
"""Neighbours further apart, in temperatures, are brought this close: half of it leaves e^-40, which
is below the rounding of float64 next to 1, and above the smallest float32."""


class Thresholds(NamedTuple):
    """Where the sum of n Laplace functions takes the values 1 .. n - 1, in temperatures.

    Attributes:
        points: (P, n) float64, where the functions stand, in the order of the scores.
        order: (P, n) int64, which point is the smallest, the second smallest, and so on.
        edges: (P, n - 1) float64, descending; the sum is k at the k-th.
        density: (P, n - 1) float64, the sum of e^-|point - edge| over the points, at each edge.
    """

    points: Tensor
    order: Tensor
    edges: Tensor
    density: Tensor


def check_scores(scores: Tensor, temperature: float) -> None:
    """Checks what every function of scores asks.

    Raises:
        TypeError: for scores that are no tensor of floating-point numbers.
        ValueError: for scores without a last dimension of at least 1, or a temperature that is not
            positive.
    """
    check_floating(scores, "scores")
    if scores.ndim < 1 or scores.shape[-1] < 1:
        raise ValueError(f"scores must have shape (..., n) with n >= 1, got {tuple(scores.shape)}")
    positive(temperature=temperature)


def solve_sorted(points: Tensor) -> tuple[Tensor, Tensor]:
    """Edges and densities, both (P, n - 1), of ascending points (P, n) float64; see `Thresholds`.

    A closed form. With l and r the sums over the points left and right of an edge,
    l - r is known there, and so is l r; hence both, and the density l + r. All in logarithms.
    """
    n = points.shape[-1]
    empty = points.new_full((*points.shape[:-1], 1), -torch.inf)
    left = torch.cat([empty, torch.logcumsumexp(points, -1)], -1)
    right = torch.cat([torch.logcumsumexp(-points.flip(-1), -1).flip(-1), empty], -1)
    rank = torch.arange(n, dtype=points.dtype, device=points.device)
    value = (n - 1 - rank) - 0.5 * (
        (right[..., 1:] + points).exp() - (left[..., 1:] - points).exp()
    )
    k = torch.arange(1, n, dtype=points.dtype, device=points.device)
    wanted = (-k).expand(*points.shape[:-1], n - 1).contiguous()
    below = torch.searchsorted(-value, wanted, right=True)
    left, right = left.gather(-1, below), right.gather(-1, below)
    excess = k - (n - below)
    half = torch.sqrt(excess.square() + (left + right).exp())
    step = torch.log(half + excess.abs())
    edges = torch.where(excess > 0, left - step, step - right)
    return torch.where(excess == 0, 0.5 * (left - right), edges), 2 * half


def solve(scores: Tensor, temperature: float) -> Thresholds:
    """The thresholds of scores (P, n), with all gaps beyond `LONGEST_GAP` shortened to it.

    Shortening changes no value of the soft permutation by more than rounding, at any scale of the
    scores, and keeps the nearest point of every edge so near that its e^-distance is a number.
    """
    wide, order = scores.detach().double().sort(dim=-1, stable=True)
    gaps = (wide / temperature).diff(dim=-1)
    # A quotient beyond all numbers is compared before it is taken.
    gaps = torch.where(gaps.isnan(), wide.diff(dim=-1) / temperature, gaps)
    gaps = gaps.clamp_(max=LONGEST_GAP)
    ascending = torch.cat([torch.zeros_like(wide[:, :1]), gaps.cumsum(-1)], -1)
    ascending -= ascending[:, scores.shape[-1] // 2, None].clone()
    edges, density = solve_sorted(ascending)
    return Thresholds(torch.empty_like(wide).scatter_(-1, order, ascending), order, edges, density)


def thresholds(scores: Tensor, temperature: float) -> Tensor:
    """Descending b_k, (..., n - 1) float64, with sum_i L((r_i - b_k) / temperature) = k.

    The unique solutions for k = 1 .. n - 1, by a closed form: one sort, two scans.
    Scores may be tied, and of any scale. No gradient.

    Args:
        scores: r, (..., n).
        temperature: positive, in the units of the scores.

    Raises:
        TypeError, ValueError: as `check_scores`.
        OverflowError: where scores in units of the temperature are beyond float64.
    """
    check_scores(scores, temperature)
    scaled = (scores.detach().double() / temperature).sort(-1).values
    if scaled.isinf().any() and not scores.isinf().any():
        raise OverflowError(
            f"scores must be numbers of float64 in units of the temperature, {temperature} is too "
            "small for these"
        )
    middle = scaled[..., scores.shape[-1] // 2, None]
    return (solve_sorted(scaled - middle)[0] + middle) * temperature


def _decayed(values: Tensor, decay: Tensor) -> Tensor:
    """Sums s_j = values_j + decay_j s_{j-1} along the last dimension of (..., n).

    Neighbours are joined, the half as long problem is solved, and what was joined is filled in: 3 n
    multiplications in all, and, since no decay exceeds 1, nothing can overflow.
    """
    n = values.shape[-1]
    if n == 1:
        return values
    even, odd = values[..., 0::2], values[..., 1::2]
    even_decay, odd_decay = decay[..., 0::2], decay[..., 1::2]
    half = n // 2
    joined = torch.addcmul(odd, odd_decay, even[..., :half])
    inner = _decayed(joined, odd_decay * even_decay[..., :half])
    sums = torch.empty_like(values)
    sums[..., 1::2] = inner
    sums[..., 0] = values[..., 0]
    later = (n - 1) // 2
    sums[..., 2::2] = torch.addcmul(even[..., 1:], even_decay[..., 1:], inner[..., :later])
    return sums


def laplace_sides(points: Tensor, values: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of e^-|point - query| value over the points left and right of each query.

    Args:
        points: (..., n), ascending; ties allowed.
        values: (..., c, n), c numbers a point.
        queries: (..., q), in any order.

    Returns:
        The sums over the points up to the query and over those beyond it, (..., c, q) each, and the
        number of points up to the query, (..., q) int64.
    """
    n = points.shape[-1]
    decay = torch.exp(points[..., :-1] - points[..., 1:]).unsqueeze(-2)
    first = torch.zeros_like(decay[..., :1]) if n > 1 else decay.new_zeros(*decay.shape[:-1], 1)
    left_decay = torch.cat([first, decay], -1)
    right_decay = torch.cat([first, decay.flip(-1)], -1)
    both = _decayed(torch.stack([values, values.flip(-1)]), torch.stack([left_decay, right_decay]))
    left, right = both[0], both[1].flip(-1)
    count = torch.searchsorted(points.contiguous(), queries.contiguous(), right=True)

    def taken(sums: Tensor, index: Tensor, outside: Tensor) -> Tensor:
        index = index.clamp(0, n - 1)
        reach = torch.exp(-(points.gather(-1, index) - queries).abs()).masked_fill_(outside, 0.0)
        wide = index.unsqueeze(-2).expand(*sums.shape[:-1], index.shape[-1])
        return sums.gather(-1, wide) * reach.unsqueeze(-2)

    return taken(left, count - 1, count == 0), taken(right, count, count == n), count


def laplace_sums(points: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Sums of e^-|point - query| value over all points, (..., c, q); see `laplace_sides`."""
    left, right, _ = laplace_sides(points, values, queries)
    return left + right
