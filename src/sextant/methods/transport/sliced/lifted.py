"""The plan that scores lift from the line into space.

Points are matched in descending order of their scores: rank k with rank k where there are equally
many points of equal weight, otherwise by the quantile coupling of the two sorted vectors of
weights, which is optimal on the line for every convex cost.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from sextant.methods.numerics import check_floating
from sextant.methods.transport.plans import SparsePlan

Ties = Literal["arbitrary", "split"]


class RankCoupling(NamedTuple):
    """Which ranks exchange how much: rank vectors int64 (E,) and masses float64 (E,), none 0."""

    source_rank: Tensor
    target_rank: Tensor
    mass: Tensor


@torch.no_grad()
def lifted_plan(
    source_scores: Tensor,
    target_scores: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    ties: Ties = "arbitrary",
) -> SparsePlan:
    """The one-dimensional optimal plan of the scores, as a plan between their points.

    O(n log n) time and O(n) memory with arbitrary ties. Entries come in descending order of scores,
    their masses in float64 whatever the dtype of the scores. Without weights all arithmetic on
    masses is in whole numbers, so that N = 2 M gives exactly N entries. Scores carry no gradient.

    Args:
        source_scores: (N,), finite.
        target_scores: (M,), finite.
        source_weights: (N,), not negative, scaled to sum 1; None for 1/N each.
        target_weights: (M,) likewise; None for 1/M each.
        ties: what happens to points of equal score. "arbitrary": they are ranked in the order they
            stand in; at most N + M - 1 entries. "split": the exact lifted plan, in which a block A
            of equal source scores exchanges with a block B of equal target scores as the product of
            their weights, G_ij = a_i b_j / (A B) G_AB; |A| |B| entries for each pair of blocks that
            meet, so N M in the worst case (all scores equal).

    Raises:
        TypeError: for scores or weights that are no tensors of floating-point numbers.
        ValueError: for scores that are no vector, empty or not finite; weights of another length,
            negative, NaN, infinite or all 0; an unknown `ties`.
    """
    if ties not in get_args(Ties):
        raise ValueError(f"ties must be 'arbitrary' or 'split', got {ties!r}")
    source_scores = _checked_scores(source_scores, "source_scores")
    target_scores = _checked_scores(target_scores, "target_scores")
    shape = (len(source_scores), len(target_scores))
    source_order, target_order = descending_order(source_scores), descending_order(target_scores)
    if source_weights is None and target_weights is None:
        if ties == "arbitrary" and shape[0] == shape[1]:
            mass = uniform_ranks(*shape, source_order.device).mass
            return SparsePlan(source_order, target_order, mass, shape)
        source_amounts, target_amounts = _uniform_amounts(*shape, source_order.device)
    else:
        source_amounts = _amounts(source_weights, "source_weights", source_order)
        target_amounts = _amounts(target_weights, "target_weights", target_order)
    if ties == "arbitrary":
        ranks = _quantiles(source_amounts, target_amounts)
    else:
        scores = (source_scores[source_order], target_scores[target_order])
        ranks = _split(*scores, source_amounts, target_amounts)
    # Here and below rows are taken by index_select, several times faster than by brackets.
    return SparsePlan(
        source_order.index_select(0, ranks.source_rank),
        target_order.index_select(0, ranks.target_rank),
        ranks.mass,
        shape,
    )


@torch.no_grad()
def descending_order(scores: Tensor) -> Tensor:
    """Index of the highest score first, int64 (..., n); equal scores keep the order they stand in.

    What `scores.argsort(-1, descending=True, stable=True)` gives, several times faster on the CPU.

    Args:
        scores: (..., n), floating-point and without NaN.
    """
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return scores.argsort(dim=-1, descending=True, stable=True)
    rising = scores.detach().neg()
    if scores.dtype == torch.float64:
        order = torch.from_numpy(np.argsort(rising.numpy(), axis=-1)).to(torch.int64)
        found = rising.gather(-1, order)
        if (found[..., 1:] == found[..., :-1]).any():
            return rising.argsort(dim=-1, stable=True)
        return order
    # The bits of a float32, read as a whole number, rise with it once those of negative numbers are
    # flipped (adding 0 turns -0 into 0). Above the position they make one whole number that is
    # sorted by value: no two are equal, and sorting values is several times faster than positions.
    bits = (rising + 0.0).view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = (bits.long() << 32) | torch.arange(scores.shape[-1])
    keys.numpy().sort(axis=-1)
    return keys.bitwise_and_(0xFFFFFFFF)


def uniform_ranks(source_count: int, target_count: int, device: torch.device) -> RankCoupling:
    """The coupling of the ranks of N and M points of equal weight, whatever their scores."""
    if source_count == target_count:
        rank = torch.arange(source_count, device=device)
        return RankCoupling(
            rank, rank, torch.full_like(rank, 1 / source_count, dtype=torch.float64)
        )
    return _quantiles(*_uniform_amounts(source_count, target_count, device))


def _checked_scores(scores: Tensor, name: str) -> Tensor:
    check_floating(scores, name)
    if scores.ndim != 1 or scores.numel() == 0:
        raise ValueError(f"{name} must be a vector with entries, got shape {tuple(scores.shape)}")
    if not torch.isfinite(scores).all():
        raise ValueError(f"{name} has NaN or infinite entries; every score must be finite")
    return scores


def _amounts(weights: Tensor | None, name: str, order: Tensor) -> Tensor:
    """Weights in the order of scores, float64 (n,)."""
    if weights is None:
        return torch.ones(len(order), dtype=torch.float64, device=order.device)
    check_floating(weights, name)
    if weights.shape != order.shape:
        raise ValueError(
            f"{name} must have shape ({len(order)},), one a score, got {tuple(weights.shape)}"
        )
    weights = weights.double()
    if not (weights >= 0).all() or not 0 < weights.sum().item() < torch.inf:
        raise ValueError(f"{name} must be finite, not negative and not all 0")
    return weights.index_select(0, order)


def _uniform_amounts(
    source_count: int, target_count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Equal amounts as whole numbers, so that both sides sum to one number without rounding."""
    divisor = math.gcd(source_count, target_count)
    counts, shares = (source_count, target_count), (target_count, source_count)
    return tuple(
        torch.full((count,), share // divisor, device=device)
        for count, share in zip(counts, shares, strict=True)
    )


def _quantiles(source_amounts: Tensor, target_amounts: Tensor) -> RankCoupling:
    """The north-west-corner coupling of two vectors of amounts, both int64 or both float64.

    Laid end to end on [0, 1], the amounts of each side cut it into intervals; an entry is an
    interval between two neighbouring cuts of either side.
    """
    source_levels, target_levels = source_amounts.cumsum(0), target_amounts.cumsum(0)
    total = source_levels[-1].item()
    if source_levels.is_floating_point():
        # A quotient of equal numbers is 1, so both sides end on the same level.
        source_levels, target_levels = (
            levels / levels[-1] for levels in (source_levels, target_levels)
        )
        total = 1.0
    # Merged without sorting: a source level stands behind the source levels before it and the
    # target levels below it.
    count = len(source_levels) + len(target_levels)
    rank = torch.arange(count, device=source_levels.device)
    at = rank[: len(source_levels)] + torch.searchsorted(target_levels, source_levels)
    is_source = torch.zeros(count, dtype=torch.bool, device=at.device)
    is_source.scatter_(0, at, True)
    levels = source_levels.new_empty(count).scatter_(0, at, source_levels)
    levels.masked_scatter_(~is_source, target_levels)
    # The interval that ends on a level belongs to the points whose own levels are not passed yet.
    # Of equal levels only the first ends an interval that is not empty, so points without weight
    # get none.
    source_rank = is_source.cumsum(0).sub_(is_source.long())
    mass = levels.diff(prepend=levels.new_zeros(1))
    kept = mass.nonzero()[:, 0]
    source_rank, mass = source_rank.index_select(0, kept), mass.index_select(0, kept)
    return RankCoupling(source_rank, kept - source_rank, mass.double().div_(total))


def _split(
    source_sorted: Tensor, target_sorted: Tensor, source_amounts: Tensor, target_amounts: Tensor
) -> RankCoupling:
    """The quantile coupling of blocks of equal scores, each entry spread over its two blocks."""
    source_block, source_sizes, source_blocks = _blocks(source_sorted, source_amounts)
    target_block, target_sizes, target_blocks = _blocks(target_sorted, target_amounts)
    met = _quantiles(source_blocks, target_blocks)
    source_share = source_amounts.double() / source_blocks[source_block].double()
    target_share = target_amounts.double() / target_blocks[target_block].double()
    width = target_sizes[met.target_rank]
    counts = source_sizes[met.source_rank] * width
    entry = torch.repeat_interleave(counts)
    within = torch.arange(len(entry), device=entry.device) - (counts.cumsum(0) - counts)[entry]
    source_first = (source_sizes.cumsum(0) - source_sizes)[met.source_rank]
    target_first = (target_sizes.cumsum(0) - target_sizes)[met.target_rank]
    source_rank = source_first[entry] + within.div(width[entry], rounding_mode="floor")
    target_rank = target_first[entry] + within % width[entry]
    mass = met.mass[entry] * source_share[source_rank] * target_share[target_rank]
    # Points without weight share nothing of their block.
    kept = mass > 0
    return RankCoupling(source_rank[kept], target_rank[kept], mass[kept])


def _blocks(sorted_scores: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Block of each rank (n,), and the number of points and the amount of each block."""
    _, block, sizes = sorted_scores.unique_consecutive(return_inverse=True, return_counts=True)
    totals = amounts.new_zeros(len(sizes)).index_add_(0, block, amounts)
    return block, sizes, totals
