"""Soft permutations: doubly stochastic matrices that sort, and their gradients
(LapSum: Struski et al., ICML 2025).

Rows k = 1 .. n of P are the soft ranks, row 1 the largest. With b_k the thresholds of the scores r,
b_0 = inf and b_n = -inf, P[k, i] = L((r_i - b_k) / temperature) - L((r_i - b_{k-1}) / temperature):
the mass that a Laplace law around score i has between two thresholds. Every row and every column
sums to 1 by construction. At temperature 0 this is the permutation that sorts in descending order,
at infinite temperature every entry is 1 / n.

`soft_permutation` makes the matrix; `apply_soft_permutation` multiplies by it without making it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.numerics import check_floating, outside_autocast
from sextant.methods.transport.sliced.laplace import (
    Thresholds,
    check_scores,
    laplace_sides,
    laplace_sums,
    solve,
)

BLOCK_ENTRIES = 1 << 17
"""Entries of a block of rows that a CPU works on at a time, so that it stays in the cache."""

REACH = {torch.float64: (600.0, 700.0), torch.float32: (60.0, 85.0)}
"""For each dtype, half the extent of a pair's thresholds up to which e^-distance is made from two
factors, and the largest exponent of a factor, in temperatures. No factor is 0 or infinite, and a
point that is cut off is so far from all thresholds that what it adds is below rounding."""


def blocks(
    pairs: int, rows: int, columns: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Slices of pairs and of rows that cut (pairs, rows, columns) into blocks of a good size.

    A block holds all rows of some pairs, or, where one pair is too large, some rows of it.
    """
    entries = BLOCK_ENTRIES if device.type == "cpu" else 128 * BLOCK_ENTRIES
    group = max(1, entries // (rows * columns))
    # Blocks of nearly equal height, rather than a last one of a few rows.
    height = -(-rows // -(-rows * columns // entries)) if group == 1 else rows
    for pair in range(0, pairs, group):
        for row in range(0, rows, height):
            yield slice(pair, min(pair + group, pairs)), slice(row, min(row + height, rows))


def working_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, and float32 for everything narrower."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class Decay:
    """weight_k e^-distance of point i to the interval [lower_k, upper_k], in blocks.

    For a point strictly inside its interval the value means nothing.

    An exponential costs ten multiplications, so it is taken of the n points and of the K edges, and
    the smaller one of the two products is what is asked. Where the edges are too far apart for the
    products to be numbers, the exponential of every entry is taken.

    Args:
        points: (P, n) float64, in temperatures.
        lower, upper: (P, K) float64 with lower <= upper, both descending.
        weight: (P, K) float64.
        dtype: of the entries, float32 or float64; their relative error is its rounding.
    """

    def __init__(
        self, points: Tensor, lower: Tensor, upper: Tensor, weight: Tensor, dtype: torch.dtype
    ) -> None:
        middle = 0.5 * (upper[:, :1] + lower[:, -1:])
        reach = float((upper[:, :1] - middle).amax())
        working = dtype if reach <= REACH[dtype][0] else torch.float64
        limit, largest = REACH[working]
        self.dtype, self.factors = dtype, reach <= limit
        if not self.factors:
            self.below, self.above, self.weight = -lower, upper, weight
            self.up = self.down = points
            return
        # Up the line from the middle and down again; the thresholds are never cut off.
        exponent = (points - middle).clamp_(-largest, largest)
        self.down, self.up = torch.exp(-exponent).to(working), exponent.exp_().to(working)
        self.below = (torch.exp(middle - lower) * weight).to(working)
        self.above = (torch.exp(upper - middle) * weight).to(working)

    def block(self, pairs: slice, rows: slice) -> Tensor:
        """The entries of some rows of some pairs, (p, k, n)."""
        below, above = self.below[pairs, rows, None], self.above[pairs, rows, None]
        up, down = self.up[pairs, None], self.down[pairs, None]
        if self.factors:
            values = below * up
            return torch.minimum(values, above * down, out=values).to(self.dtype)
        values = below + up
        torch.minimum(values, above - down, out=values)
        return values.clamp_(max=0.0).exp_().mul_(self.weight[pairs, rows, None]).to(self.dtype)


def inner_rows(found: Thresholds) -> Tensor:
    """For every score the row of P between whose thresholds it lies, (P, n) int64."""
    n = found.points.shape[-1]
    return n - 1 - torch.searchsorted(found.edges.flip(-1), found.points)


def inner_entries(found: Thresholds, row: Tensor) -> Tensor:
    """The entry of P of every score in the row where it lies, (P, n) float64."""
    outside = found.edges.new_full((len(found.edges), 1), torch.inf)
    bounds = torch.cat([outside, found.edges, -outside], -1)
    upper, lower = bounds.gather(-1, row), bounds.gather(-1, row + 1)
    return -0.5 * (torch.expm1(lower - found.points) + torch.expm1(found.points - upper))


def threshold_slopes(near: Tensor, steps: Tensor, density: Tensor) -> Tensor:
    """What some rows give to 2 * temperature * (gradient in the scores), (P, n).

    The closed form sum_k e^-|x_ki| (steps_ki - their mean under softmax_i(-|x_k.|)).

    Args:
        near: e^-|x_ki|, (P, K, n).
        steps: e^-|x_ki| times the gradient in row k of P less that in row k + 1, (P, K, n).
        density: the row sums of near, (P, K).
    """
    mean = (steps.sum(-1) / density).to(steps.dtype)
    return steps.sum(-2) - (mean.unsqueeze(-2) @ near).squeeze(-2)


def near_thresholds(found: Thresholds, dtype: torch.dtype) -> Decay:
    """e^-|x_ki| for the thresholds k and every score i, (P, n - 1, n) in blocks."""
    edges = found.edges
    return Decay(found.points, edges, edges, torch.ones_like(edges), dtype)


class _SoftPermutation(torch.autograd.Function):
    """scores (P, n) -> (P, n, n); saves O(n) numbers a pair and makes everything else again."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        found = solve(scores, temperature)
        ctx.save_for_backward(*found)
        ctx.temperature, ctx.dtype = temperature, scores.dtype
        pairs, n = scores.shape
        dtype = working_dtype(scores)
        # The first and the last row end on one side only: points not inside are on the other side.
        first, last = found.edges[:, :1], found.edges[:, -1:]
        upper, lower = torch.cat([first, found.edges], -1), torch.cat([found.edges, last], -1)
        mass = torch.expm1(lower - upper).mul_(-0.5)
        mass[:, 0] = mass[:, -1] = 0.5
        result = scores.new_empty(pairs, n, n, dtype=dtype)
        entries = Decay(found.points, lower, upper, mass, dtype)
        for some, rows in blocks(pairs, n, n, scores.device):
            result[some, rows] = entries.block(some, rows)
        row = inner_rows(found)
        inner = inner_entries(found, row).to(dtype)
        return result.scatter_(1, row.unsqueeze(1), inner.unsqueeze(1)).to(scores.dtype)

    @staticmethod
    @once_differentiable
    @outside_autocast()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found = Thresholds(*ctx.saved_tensors)
        pairs, n = found.points.shape
        dtype = working_dtype(gradient)
        slope = torch.zeros_like(found.points)
        nearness = near_thresholds(found, dtype)
        for some, rows in blocks(pairs, n - 1, n, gradient.device):
            near = nearness.block(some, rows)
            steps = gradient[some, rows] - gradient[some, rows.start + 1 : rows.stop + 1]
            slope[some] += threshold_slopes(near, near * steps, found.density[some, rows])
        return (slope * (0.5 / ctx.temperature)).to(ctx.dtype), None


@outside_autocast()
def soft_permutation(scores: Tensor, temperature: float) -> Tensor:
    """The soft permutation P (..., n, n) of scores (..., n), in their dtype; row 0 the largest.

    Entries are at least 0; rows and columns sum to 1 up to rounding, n^1.5 eps in float64 (3e-12 at
    n = 1,000) and 1e-6 in float32. Float64 inside. P(scores + c) = P(scores); scores and
    temperature scale together; P(-scores) is P(scores) with its rows flipped. Scores that are not
    numbers give no numbers. Differentiable once in the scores, with a closed form.

    Args:
        scores: (..., n), ties allowed, of any scale.
        temperature: positive, in the units of the scores.

    Raises:
        TypeError, ValueError: as `check_scores`.
    """
    check_scores(scores, temperature)
    n = scores.shape[-1]
    flat = scores.reshape(-1, n)
    if n == 1:
        return (scores * 0.0 + 1.0).unsqueeze(-1)
    return _SoftPermutation.apply(flat, temperature).reshape(*scores.shape, n)


def _times(found: Thresholds, values: Tensor) -> Tensor:
    """P values for values (P, c, n) float64."""
    ascending = found.points.gather(-1, found.order)
    wide = found.order.unsqueeze(1).expand_as(values)
    # P maps constants to themselves; without them the prefix sums stay small.
    mean = values.mean(-1, keepdim=True)
    values = values.gather(-1, wide) - mean
    left, right, count = laplace_sides(ascending, values, found.edges)
    zero = values.new_zeros(*values.shape[:-1], 1)
    prefix = torch.cat([zero, values.cumsum(-1)], -1)
    total = prefix[..., -1:]
    beyond = total - prefix.gather(-1, count.unsqueeze(1).expand_as(left))
    sums = torch.cat([zero, 0.5 * (left - right) + beyond, total], -1)
    return sums.diff(dim=-1) + mean


def _transpose_times(found: Thresholds, values: Tensor) -> Tensor:
    """P^T values for values (P, c, n) float64."""
    n = values.shape[-1]
    ascending = found.points.gather(-1, found.order)
    steps = values[..., :-1] - values[..., 1:]
    left, right, count = laplace_sides(found.edges.flip(-1), steps.flip(-1), ascending)
    row = (n - 1 - count).unsqueeze(1).expand_as(values)
    sums = values.gather(-1, row) + 0.5 * (right - left)
    return torch.empty_like(sums).scatter_(-1, found.order.unsqueeze(1).expand_as(sums), sums)


def _score_gradient(found: Thresholds, rows: Tensor, columns: Tensor) -> Tensor:
    """Gradient of sum_ki P_ki rows_k . columns_i in the points (P, n); rows, columns (P, c, n)."""
    ascending = found.points.gather(-1, found.order)
    wide = found.order.unsqueeze(1).expand_as(columns)
    columns = columns.gather(-1, wide)
    columns = columns - columns.mean(-1, keepdim=True)
    steps = rows[..., :-1] - rows[..., 1:]
    mean = laplace_sums(ascending, columns, found.edges) / found.density.unsqueeze(1)
    offset = (steps * mean).sum(-2, keepdim=True)
    sums = laplace_sums(found.edges.flip(-1), torch.cat([steps, offset], -2).flip(-1), ascending)
    sorted_gradient = 0.5 * ((columns * sums[:, :-1]).sum(-2) - sums[:, -1])
    return torch.empty_like(ascending).scatter_(-1, found.order, sorted_gradient)


class _Applied(torch.autograd.Function):
    """scores (P, n) and values (P, c, n) -> P values or P^T values, (P, c, n)."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, values: Tensor, temperature: float, transpose: bool
    ) -> Tensor:
        found = solve(scores, temperature)
        ctx.save_for_backward(*found, values)
        ctx.temperature, ctx.transpose, ctx.dtype = temperature, transpose, scores.dtype
        product = _transpose_times if transpose else _times
        return product(found, values.double()).to(values.dtype)

    @staticmethod
    @once_differentiable
    @outside_autocast()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        *parts, values = ctx.saved_tensors
        found = Thresholds(*parts)
        upward = gradient.double()
        to_scores = to_values = None
        if ctx.needs_input_grad[0]:
            rows, columns = upward, values.double()
            if ctx.transpose:
                rows, columns = columns, rows
            to_scores = (_score_gradient(found, rows, columns) / ctx.temperature).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            product = _times if ctx.transpose else _transpose_times
            to_values = product(found, upward).to(gradient.dtype)
        return to_scores, to_values, None, None


@outside_autocast()
def apply_soft_permutation(
    scores: Tensor, values: Tensor, temperature: float, transpose: bool = False
) -> Tensor:
    """P values, or P^T values, (..., n, c) for the soft permutation P of the scores, never made.

    O(n log n + n c) time and O(n c) memory; equal to the product with `soft_permutation`, gradients
    in scores and values included. Float64 inside. Differentiable once.

    Args:
        scores: (..., n), as in `soft_permutation`.
        values: (..., n, c), leading dimensions as in scores.
        temperature: positive, in the units of the scores.
        transpose: whether P^T is applied: rows of values are then soft ranks.

    Raises:
        TypeError: as `check_scores`, or for values that are no floating-point tensor.
        ValueError: as `check_scores`, or for values of another shape.
    """
    check_scores(scores, temperature)
    check_floating(values, "values")
    if values.ndim != scores.ndim + 1 or values.shape[:-1] != scores.shape:
        raise ValueError(
            f"values must have shape {(*scores.shape, 'c')}, one row a score, "
            f"got {tuple(values.shape)}"
        )
    n = scores.shape[-1]
    if n == 1:
        return values + 0.0 * scores.unsqueeze(-1)
    channels_first = values.reshape(-1, n, values.shape[-1]).transpose(1, 2)
    product = _Applied.apply(scores.reshape(-1, n), channels_first, temperature, transpose)
    return product.transpose(1, 2).reshape(values.shape)
