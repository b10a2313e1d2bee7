"""Channel functions with a ReLU hidden layer as what they are: piecewise linear, in a table.

Between two neighbouring knots -b/w of the hidden layer every channel is one straight line. So a
number needs its interval and one multiplication a channel, in the place of `hidden` of them. The
table is made from the perceptron's weights by differentiable operations. A knot itself moves no
value, because the function is continuous there; so gradients are those of the perceptron, exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CELLS = 4096
"""Cells of the grid that `locate` narrows the search with."""
AT_A_TIME = 1 << 15
"""Numbers worked on at a time on a CPU, so that temporaries stay in its cache."""
RADIX_FROM = 1 << 15
"""How many integers torch sorts by their digits, in linear time; fewer it compares."""


class Table(NamedTuple):
    """psi_l(u) = slopes[k, l] u + intercepts[k, l] in interval k, which ends at knots[k].

    knots (K,) ascending, without a graph; slopes and intercepts (K + 1, L).
    """

    knots: Tensor
    slopes: Tensor
    intercepts: Tensor


def tabulate(
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    rectified: bool,
    dtype: torch.dtype,
) -> Table:
    """The perceptron 1 -> hidden (ReLU) -> L, or L perceptrons, with or without an outer ReLU.

    An outer ReLU adds the zeros of every channel to the knots, at most one in an interval. Lines
    are summed in float64. O(K hidden L) time once; K is at most hidden + L (hidden + 1), and in
    practice little above hidden.

    Args:
        first_weight, first_bias: (hidden,), or (L, hidden) for L perceptrons.
        second_weight, second_bias: (L, hidden) and (L,).
        rectified: whether psi = max(0, perceptron).
        dtype: of the table.
    """
    weight, bias = first_weight.double(), first_bias.double()
    outer_weight, outer_bias = second_weight.double(), second_bias.double()

    def lines(inside: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts (K + 1, L) of the intervals that the points (K + 1,) lie in."""
        points = inside.view(-1, *[1] * weight.ndim)
        active = (points * weight.detach() + bias.detach() > 0).double()
        if weight.ndim == 1:
            return (active * weight) @ outer_weight.T, (active * bias) @ outer_weight.T + outer_bias
        slopes = (active * (weight * outer_weight)).sum(-1)
        return slopes, (active * (bias * outer_weight)).sum(-1) + outer_bias

    with torch.no_grad():
        knots = (-bias / weight).flatten()
        knots = knots[knots.isfinite()].sort().values
        inside = interior(knots)
        if rectified:
            slopes, intercepts = lines(inside)
            zeros = -intercepts / slopes
            ends = functional.pad(knots, (1, 1), value=torch.inf)
            ends[0] = -torch.inf
            crossed = zeros.isfinite() & (zeros > ends[:-1, None]) & (zeros < ends[1:, None])
            knots = torch.cat((knots, zeros[crossed])).sort().values
            inside = interior(knots)
    slopes, intercepts = lines(inside)
    if rectified:
        positive = slopes.detach() * inside[:, None] + intercepts.detach() > 0
        slopes, intercepts = slopes * positive, intercepts * positive
    return Table(knots.to(dtype), slopes.to(dtype), intercepts.to(dtype))


def interior(knots: Tensor) -> Tensor:
    """One point (K + 1,) strictly inside every interval between ascending knots (K,)."""
    if len(knots) == 0:
        return knots.new_zeros(1)
    return torch.cat((knots[:1] - 1, (knots[1:] + knots[:-1]) / 2, knots[-1:] + 1))


def locate(arguments: Tensor, knots: Tensor) -> Tensor:
    """The interval of every number: how many knots lie below it, int32, like `arguments`.

    The same as `torch.bucketize`, which searches K knots anew for every number. Here a grid of
    equal cells tells how many knots lie in cells before a number's own, and only the knots of its
    own cell are compared. A number's cell never falls as the number grows, rounding included, so
    the answer is exact. Where many knots crowd one cell, `torch.bucketize` answers.

    O(1) time a number, for a few knots in a cell; 4 bytes of memory a number.
    """
    if arguments.device.type != "cpu" or len(knots) == 0 or arguments.numel() < CELLS:
        return torch.bucketize(arguments, knots, out_int32=True)
    low, high = arguments.aminmax()
    scale = (CELLS - 1) / (high - low)
    if not 0 < scale < torch.inf:
        return torch.bucketize(arguments, knots, out_int32=True)

    def cells(numbers: Tensor) -> Tensor:
        return ((numbers - low) * scale).clamp_(0, CELLS - 1).int()

    places = cells(knots)
    within = places[(knots >= low) & (knots <= high)]
    crowd = int(within.bincount().max()) if len(within) else 0
    if crowd > 8:
        return torch.bucketize(arguments, knots, out_int32=True)
    # Knots below all numbers count as before the first cell; those above are never passed.
    places = torch.where(knots < low, -1, places)
    grid = torch.arange(CELLS, dtype=torch.int32)
    before = torch.searchsorted(places, grid, out_int32=True)
    padded = functional.pad(knots, (0, 1), value=torch.inf)
    flat = arguments.reshape(-1)
    intervals = torch.empty(flat.shape, dtype=torch.int32)
    for start in range(0, len(flat), AT_A_TIME):
        some = flat[start : start + AT_A_TIME]
        found = before.index_select(0, cells(some))
        for _ in range(crowd):
            found += some > padded.index_select(0, found)
        intervals[start : start + AT_A_TIME] = found
    return intervals.view(arguments.shape)


def narrowed(intervals: Tensor, count: int) -> Tensor:
    """Interval numbers below `count` in as few bytes as hold them, for keeping."""
    if count <= 256:
        return intervals.to(torch.uint8)
    return intervals.to(torch.int16) if count <= 32768 else intervals


class Lines(torch.autograd.Function):
    """`apply(arguments (n,), knots, slopes, intercepts)`: psi (n, L), one row a number."""

    @staticmethod
    def forward(
        ctx: Any, arguments: Tensor, knots: Tensor, slopes: Tensor, intercepts: Tensor
    ) -> Tensor:
        intervals = locate(arguments, knots)
        ctx.save_for_backward(arguments, narrowed(intervals, len(slopes)), slopes)
        values = slopes.index_select(0, intervals).mul_(arguments[:, None])
        return values.add_(intercepts.index_select(0, intervals))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arguments, intervals, slopes = ctx.saved_tensors
        intervals = intervals.int()
        grad_arguments = grad_slopes = grad_intercepts = None
        if ctx.needs_input_grad[0]:
            grad_arguments = (slopes.index_select(0, intervals) * gradient).sum(-1)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            order, offsets = grouped(intervals, len(slopes))
            grad_intercepts = bags(order, gradient, offsets)
            grad_slopes = bags(order, gradient, offsets, arguments.index_select(0, order))
        return grad_arguments, None, grad_slopes, grad_intercepts


def grouped(groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """An order (n,) that brings equal group numbers (n,) together, and where each group starts.

    Group numbers are int32 below `count`; within a group the order is kept. The starts (count + 1,)
    end with n. All int32.
    """
    n = len(groups)
    if RADIX_FROM // 4 < n < RADIX_FROM:
        # torch compares to sort fewer numbers than this, at several times the cost.
        padded = functional.pad(groups, (0, RADIX_FROM - n), value=count)
        order = torch.sort(padded, stable=True).indices[:n]
    else:
        order = torch.sort(groups, stable=True).indices
    ends = torch.bincount(groups, minlength=count).cumsum(0)
    return order.int(), functional.pad(ends, (1, 0)).int()


def bags(members: Tensor, rows: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of (weighted) rows: bag j has rows[members[starts[j] : starts[j + 1]]].

    O(members x width) time, and no memory beside the output.
    """
    return functional.embedding_bag(
        members, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def evaluate(arguments: Tensor, table: Table) -> Tensor:
    """psi (..., L) of the arguments (...), exactly, with exact gradients.

    O(1) time a number and channel, whatever the width of the hidden layer; keeps the arguments and
    one or two bytes a number for the backward pass.
    """
    flat = Lines.apply(arguments.reshape(-1), *table)
    return flat.view(*arguments.shape, -1)
