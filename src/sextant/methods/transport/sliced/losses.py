"""The cost of the pairs that a slicer's scores make, hard, and soft enough to train it on.

arXiv 2511.19741. The pairs match equal ranks of the scores, so their cost is flat
almost everywhere in the slicer's parameters. Here one cloud is sorted softly at a time, and meets
the other one sorted hard; the hard order carries no gradient. The two soft costs are those of the
couplings P_x^T H_y / N and H_x^T P_y / N with P soft and H hard permutations. Their marginals are
exact, so that the loss is never below the optimal cost; at temperature 0 it is the hard cost.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.numerics import check_floating, divided, outside_autocast, unit, widened
from sextant.methods.transport.ground import (
    DIFFERENCES_UP_TO,
    Cost,
    ground_cost,
    known_cost,
    paired_cost,
)
from sextant.methods.transport.sliced.laplace import check_scores, solve
from sextant.methods.transport.sliced.soft_permutation import (
    apply_soft_permutation,
    blocks,
    inner_rows,
    near_thresholds,
    soft_permutation,
    threshold_slopes,
    working_dtype,
)
from sextant.ranges import positive

Sort = Literal["lapsum", "softsort"]
"""How scores are sorted softly: by the Laplace sums of min-STP, or by SoftSort (an ablation)."""

MATRIX_FREE_FROM = 1 << 18
"""Entries of all soft permutations from which sums are faster without them (measured, one core)."""


def known_sort(sort: str) -> Sort:
    """The name of a soft sort, unchanged.

    Raises:
        ValueError: for any other name.
    """
    if sort not in get_args(Sort):
        raise ValueError(f"sort must be 'lapsum' or 'softsort', got {sort!r}")
    return sort


def descending_order(scores: Tensor) -> Tensor:
    """The hard order (..., n) int64 of scores (..., n), largest first, ties as they stand."""
    return scores.detach().argsort(dim=-1, descending=True, stable=True)


def take_points(points: Tensor, index: Tensor) -> Tensor:
    """Rows of points (P, n, d) in the order of index (P, n)."""
    return points.gather(1, index.unsqueeze(-1).expand(*index.shape, points.shape[-1]))


def check_clouds(
    source_scores: Tensor, target_scores: Tensor, source: Tensor, target: Tensor
) -> None:
    """Checks the scores (P, N) and points (P, N, d) of P pairs of equally large clouds.

    Raises:
        TypeError: for anything but tensors of floating-point numbers.
        ValueError: for shapes that do not fit together.
    """
    for name, points in (("source", source), ("target", target)):
        check_floating(points, name)
        if points.ndim != 3 or points.numel() == 0:
            raise ValueError(f"{name} must have shape (P, N, d), got {tuple(points.shape)}")
    if source.shape != target.shape:
        raise ValueError(
            "source and target must hold equally many clouds, points and coordinates, "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    for name, scores in (("source_scores", source_scores), ("target_scores", target_scores)):
        check_scores(scores, 1.0)
        if scores.shape != source.shape[:2]:
            raise ValueError(
                f"{name} must have shape {tuple(source.shape[:2])}, one score a point, "
                f"got {tuple(scores.shape)}"
            )


def hard_cost(
    source_scores: Tensor, target_scores: Tensor, source: Tensor, target: Tensor, cost: Cost
) -> Tensor:
    """Mean cost of the pairs of equal rank, (P,): what the slicer is used for.

    Args:
        source_scores, target_scores: (P, N).
        source, target: (P, N, d); the result is differentiable in them, and not in the scores.
        cost: "euclidean" or "sqeuclidean".

    Raises:
        TypeError, ValueError: as `check_clouds`; ValueError also for an unknown cost.
    """
    check_clouds(source_scores, target_scores, source, target)
    source = take_points(source, descending_order(source_scores))
    target = take_points(target, descending_order(target_scores))
    return paired_cost(source, target, cost).mean(-1)


def standardized(source_scores: Tensor, target_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both scores (P, N) divided by the standard deviation of their union, pair by pair.

    The gradient passes through the deviation. Scores that differ by no more than rounding stay as
    they are: dividing them by their deviation would blow rounding up to ranks.
    """
    source_scores, target_scores = widened(source_scores), widened(target_scores)
    if source_scores.dtype == torch.float64:  # squares of float32 are always numbers of float64
        by = unit(source_scores, target_scores, dtype=torch.float64)
        source_scores, target_scores = divided(source_scores, by), divided(target_scores, by)
    scores = torch.cat([source_scores, target_scores], -1).double()
    centred = scores - scores.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    rounding = 4 * torch.finfo(source_scores.dtype).eps
    flat = variance <= rounding**2 * scores.detach().square().mean(-1, keepdim=True)
    deviation = variance.masked_fill(flat, 1.0).sqrt().to(source_scores.dtype)
    return source_scores / deviation, target_scores / deviation


def soft_sort(scores: Tensor, temperature: float) -> Tensor:
    """SoftSort with absolute differences, (..., n, n): softmax_i(-|r_(k) - r_i| / temperature).

    Rows are descending ranks and sum to 1; columns do not.
    """
    scores = widened(scores)
    ranked = scores.sort(dim=-1, descending=True, stable=True).values
    distance = (ranked.unsqueeze(-1) - scores.unsqueeze(-2)).abs()
    return torch.softmax(-distance / temperature, -1)


def _soft_matrix(scores: Tensor, temperature: float, sort: Sort) -> Tensor:
    return (soft_permutation if sort == "lapsum" else soft_sort)(scores, temperature)


def _hard_matrix(scores: Tensor) -> Tensor:
    order = descending_order(scores)
    rows = scores.new_zeros(*scores.shape, scores.shape[-1]).detach()
    return rows.scatter_(-1, order.unsqueeze(-1), 1.0)


@outside_autocast()
def dense_coupling(
    source_scores: Tensor,
    target_scores: Tensor,
    temperature: float,
    standardize: bool = True,
    both_soft: bool = False,
    sort: Sort = "lapsum",
) -> Tensor:
    """The coupling (P, N, N) whose cost is `two_pass_loss`; its mass is 1 a pair.

    The definition spelled out in full matrices, for inspection: training never makes it.
    """
    source_scores, target_scores = widened(source_scores), widened(target_scores)
    if standardize:
        source_scores, target_scores = standardized(source_scores, target_scores)
    n = source_scores.shape[-1]
    soft_source = _soft_matrix(source_scores, temperature, sort)
    soft_target = _soft_matrix(target_scores, temperature, sort)
    if both_soft:
        return soft_source.mT @ soft_target / n
    hard_source, hard_target = _hard_matrix(source_scores), _hard_matrix(target_scores)
    return (soft_source.mT @ hard_target + hard_source.mT @ soft_target) / (2 * n)


def _block_cost(source: Tensor, target: Tensor, cost: Cost) -> Tensor:
    """`ground_cost` without a gradient: faster, where coordinates are few, one after the other."""
    if source.shape[-1] > DIFFERENCES_UP_TO:
        return ground_cost(source, target, cost)
    source, target = source.unsqueeze(-2), target.unsqueeze(-3)
    costs = source[..., 0] - target[..., 0]
    difference = torch.empty_like(costs)
    costs.square_()
    for axis in range(1, source.shape[-1]):
        torch.sub(source[..., axis], target[..., axis], out=difference)
        costs.addcmul_(difference, difference)
    return costs.sqrt_() if cost == "euclidean" else costs


class _SoftCost(torch.autograd.Function):
    """sum_ki P_ki cost(ranked_k, points_i) a pair, (P,), in blocks of rows and O(n) memory.

    The gradient in the scores is made in the same sweep: a second one would make every block again.
    None in the points.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, points: Tensor, ranked: Tensor, cost: Cost, temperature: float
    ) -> Tensor:
        found = solve(scores, temperature)
        pairs, n = scores.shape
        dtype = working_dtype(points)
        # Every point with the rank it lies at; what it has at other ranks changes that by the sums
        # below, so that they need the differences of neighbouring ranks only, as the gradient does.
        row = inner_rows(found)
        met = paired_cost(take_points(ranked, row), points, cost)
        total = met.sum(-1).double()
        slope = torch.zeros_like(found.points)
        lies = row.unsqueeze(1).to(dtype) - 0.5
        rank = torch.arange(n - 1, dtype=dtype, device=scores.device)
        nearness = near_thresholds(found, dtype)
        for some, rows in blocks(pairs, n - 1, n, scores.device):
            further = slice(rows.start, rows.stop + 1)
            costs = _block_cost(ranked[some, further], points[some], cost).to(dtype)
            near = nearness.block(some, rows)
            steps = (costs[:, :-1] - costs[:, 1:]).mul_(near)
            if ctx.needs_input_grad[0]:
                slope[some] += threshold_slopes(near, steps, found.density[some, rows])
            # Scores below a threshold have e^-|x| / 2 of its step, and those above 1 - e^-|x| / 2.
            side = (lies[some] - rank[rows, None]).sign_()
            total[some] += 0.5 * steps.mul_(side).sum((1, 2))
        ctx.save_for_backward(slope * (0.5 / temperature))
        ctx.dtype = scores.dtype
        return total.to(points.dtype)

    @staticmethod
    @once_differentiable
    @outside_autocast()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * gradient.unsqueeze(-1)).to(ctx.dtype), None, None, None, None


def _soft_cost(
    scores: Tensor, points: Tensor, ranked: Tensor, cost: Cost, temperature: float, sort: Sort
) -> Tensor:
    """Mean over ranks k of sum_i P_ki cost(ranked_k, points_i), (P,), P the soft sort of scores."""
    n = scores.shape[-1]
    if sort == "softsort":
        return (soft_sort(scores, temperature) * ground_cost(ranked, points, cost)).sum((1, 2)) / n
    if cost == "sqeuclidean":
        sorted_points = _softly_sorted(scores, points, temperature)
        return _squared(points, ranked, sorted_points, ranked)
    if n == 1 or points.requires_grad or ranked.requires_grad:
        rows = soft_permutation(scores, temperature)
        return (rows * ground_cost(ranked, points, cost)).sum((1, 2)) / n
    return _SoftCost.apply(scores, points, ranked, cost, temperature) / n


def _softly_sorted(scores: Tensor, points: Tensor, temperature: float) -> Tensor:
    """P points, (P, n, d), by whichever way is faster."""
    if scores.numel() * scores.shape[-1] < MATRIX_FREE_FROM:
        return soft_permutation(scores, temperature) @ points
    return apply_soft_permutation(scores, points, temperature)


def _squared(source: Tensor, target: Tensor, meet_source: Tensor, meet_target: Tensor) -> Tensor:
    """Mean squared distance under a coupling with exact marginals, (P,).

    It is the mean square of both clouds less twice the mean inner product under the coupling, which
    is that of the points as they meet: meet_source and meet_target, (P, n, d).
    """
    squares = source.square().sum(-1) + target.square().sum(-1)
    return (squares - 2 * (meet_source * meet_target).sum(-1)).mean(-1)


@outside_autocast()
def two_pass_loss(
    source_scores: Tensor,
    target_scores: Tensor,
    source: Tensor,
    target: Tensor,
    cost: Cost = "euclidean",
    temperature: float = 0.1,
    standardize: bool = True,
    both_soft: bool = False,
    sort: Sort = "lapsum",
) -> Tensor:
    """The soft cost of the pairs that scores make, 0-d: the mean over P pairs of clouds.

    The published setting is temperature 5 without standardizing.

    With the squared cost no N x N matrix is made for large clouds, and time is O(N log N + N d);
    with the Euclidean cost it is O(N^2) in O(N) memory, unless points require a gradient.

    Args:
        source_scores, target_scores: (P, N).
        source, target: (P, N, d).
        cost: "euclidean" or "sqeuclidean".
        temperature: of the soft sort, in the units of the scores, or in standard deviations of both
            scores together where they are standardized.
        standardize: whether scores are divided by that deviation, pair by pair, with its gradient.
        both_soft: the coupling is P_x^T P_y / N instead: both clouds sorted softly at once.
        sort: "lapsum", or "softsort" with the temperature as its own.

    Raises:
        TypeError, ValueError: as `check_clouds`; ValueError also for an unknown cost or sort, or a
            temperature that is not positive.
    """
    check_clouds(source_scores, target_scores, source, target)
    known_cost(cost)
    known_sort(sort)
    positive(temperature=temperature)
    source_scores, target_scores = widened(source_scores), widened(target_scores)
    source, target = widened(source), widened(target)
    if standardize:
        source_scores, target_scores = standardized(source_scores, target_scores)
    # One shift of both clouds changes no cost, and keeps inner products small beside the squares.
    middle = torch.cat([source, target], 1).mean(1, keepdim=True).detach()
    source, target = source - middle, target - middle
    if both_soft:
        return _both_soft(source_scores, target_scores, source, target, cost, temperature, sort)
    ranked_source = take_points(source, descending_order(source_scores))
    ranked_target = take_points(target, descending_order(target_scores))
    return _soft_cost(
        torch.cat([source_scores, target_scores]),
        torch.cat([source, target]),
        torch.cat([ranked_target, ranked_source]),
        cost,
        temperature,
        sort,
    ).mean()


def _both_soft(
    source_scores: Tensor,
    target_scores: Tensor,
    source: Tensor,
    target: Tensor,
    cost: Cost,
    temperature: float,
    sort: Sort,
) -> Tensor:
    if cost == "sqeuclidean" and sort == "lapsum":
        return _squared(
            source,
            target,
            _softly_sorted(source_scores, source, temperature),
            _softly_sorted(target_scores, target, temperature),
        ).mean()
    soft_source = _soft_matrix(source_scores, temperature, sort)
    soft_target = _soft_matrix(target_scores, temperature, sort)
    met = soft_source @ ground_cost(source, target, cost)
    return (met * soft_target).sum((1, 2)).mean() / source.shape[1]
