"""Points put in order along many slices at once, hard or soft, for expected sliced plans.

A ranking is a matrix A for each slice, one row a rank and one column a point: row r says which
point has rank r. A hard one is a permutation; the soft ones are differentiable in the scores.
Rankings are applied to rows of numbers and to their transposes, and only the dense ones are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.transport.sliced.lifted import descending_order
from sextant.methods.transport.sliced.soft_permutation import (
    apply_soft_permutation,
    soft_permutation,
)

Power = Literal[1, 2]


SMALLEST_LOGARITHM = -80.0
"""Smaller weights are raised to exp of this: they add nothing, and subnormal numbers are slow."""


class Ranking(Protocol):
    """The rankings of P sets of n points along L slices; rows of ranks beyond a set's points and
    columns of masked points are 0."""

    def to_ranks(self, values: Tensor) -> Tensor:
        """A values: (P, n, c) shared by the slices to (P, L, n, c)."""

    def to_points(self, values: Tensor) -> Tensor:
        """Sum over the slices of A^T values: (P, L, n, c) to (P, n, c)."""


class Sorting(Protocol):
    """A way of ranking."""

    def rank(self, scores: Tensor, mask: Tensor | None, dense: bool) -> Ranking:
        """Ranks scores (P, L, n) of the points where mask (P, n) is True, in descending order; with
        `matrices` where it is to be dense."""


class DenseRanking:
    """A ranking whose matrices (P, L, n, n) are at hand."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices = matrices

    def to_ranks(self, values: Tensor) -> Tensor:
        """As `Ranking.to_ranks`; one product of matrices for all slices."""
        return (self.matrices.flatten(1, 2) @ values).unflatten(1, self.matrices.shape[1:3])

    def to_points(self, values: Tensor) -> Tensor:
        """As `Ranking.to_points`; one product of matrices that also sums the slices."""
        return self.matrices.flatten(1, 2).transpose(-1, -2) @ values.flatten(1, 2)


class OrderedRanking:
    """A ranking that is a permutation, kept as the point of every rank.

    Args:
        order: int64 (P, L, n), all masked points behind the others.
        mask: bool (P, n) or None.
    """

    def __init__(self, order: Tensor, mask: Tensor | None) -> None:
        self.order, self.mask = order, mask

    @property
    def matrices(self) -> Tensor:
        """The permutations (P, L, n, n)."""
        unit = torch.eye(self.order.shape[-1], device=self.order.device)
        return self.to_ranks(unit.expand(len(self.order), -1, -1))

    def to_ranks(self, values: Tensor) -> Tensor:
        """As `Ranking.to_ranks`; rows are gathered."""
        if self.mask is not None:
            values = values.masked_fill(~self.mask[..., None], 0)
        index = self.order.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, index).unflatten(1, self.order.shape[1:])

    def to_points(self, values: Tensor) -> Tensor:
        """As `Ranking.to_points`; rows are added where they belong."""
        index = self.order.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        points = values.new_zeros(len(values), values.shape[2], values.shape[3])
        points = points.scatter_add(1, index, values.flatten(1, 2))
        return points if self.mask is None else points.masked_fill(~self.mask[..., None], 0)


class LaplaceRanking:
    """A Laplace ranking whose matrices are never made; O(n c) time a slice.

    Args:
        scores: (P, L, n), those of masked points below all others by many temperatures.
        mask: bool (P, n) or None.
        temperature: in the units of the scores.
    """

    def __init__(self, scores: Tensor, mask: Tensor | None, temperature: float) -> None:
        self.scores, self.mask, self.temperature = scores, mask, temperature

    def to_ranks(self, values: Tensor) -> Tensor:
        """As `Ranking.to_ranks`."""
        if self.mask is not None:
            values = values.masked_fill(~self.mask[..., None], 0)
        wide = values[:, None].expand(-1, self.scores.shape[1], -1, -1)
        return apply_soft_permutation(self.scores, wide, self.temperature)

    def to_points(self, values: Tensor) -> Tensor:
        """As `Ranking.to_points`."""
        points = apply_soft_permutation(self.scores, values, self.temperature, transpose=True)
        points = points.sum(1)
        return points if self.mask is None else points.masked_fill(~self.mask[..., None], 0)


@dataclass(frozen=True)
class HardSorting:
    """Sorts; equal scores keep the order they stand in. No gradient in the scores."""

    def rank(self, scores: Tensor, mask: Tensor | None, dense: bool = False) -> OrderedRanking:
        """As `Sorting.rank`."""
        scores = scores.detach()
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        return OrderedRanking(descending_order(scores), mask)


@dataclass(frozen=True)
class SoftSorting:
    """SoftSort (Prillo and Eisenschlos 2020): row r is softmax_i(-|s_(r) - s_i|^power / t), s_(r)
    being the score of rank r.

    Rows sum to 1 whatever the temperature, columns only as it goes to 0. O(n^2) memory a slice.

    Args:
        temperature: t, positive, in the units of the scores to the power.
        power: 2, as published, or 1.

    Raises:
        ValueError: for settings outside these ranges.
    """

    temperature: float
    power: Power = 2

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if self.power not in get_args(Power):
            raise ValueError(f"power must be 1 or 2, got {self.power!r}")

    def rank(self, scores: Tensor, mask: Tensor | None, dense: bool = False) -> DenseRanking:
        """As `Sorting.rank`."""
        return DenseRanking(_SoftSort.apply(scores, mask, self.temperature, self.power))


class _SoftSort(torch.autograd.Function):
    """Scores (P, L, n) and mask (P, n) to rankings (P, L, n, n); keeps them and the scores.

    Several times faster than torch's softmax and its gradient where n is small.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, mask: Tensor | None, temperature: float, power: Power
    ) -> Tensor:
        seen = scores if mask is None else scores.masked_fill(~mask[:, None], -torch.inf)
        order = descending_order(seen)
        ordered = scores.gather(-1, order)
        weights = ordered[..., :, None] - scores[..., None, :]
        weights = weights.square_() if power == 2 else weights.abs_()
        weights = weights.mul_(-1 / temperature).clamp_(min=SMALLEST_LOGARITHM).exp_()
        if mask is not None:
            ranks = torch.arange(scores.shape[-1], device=scores.device)
            beyond = ranks >= mask.sum(1, keepdim=True)
            absent = ~mask[:, None, None, :] | beyond[:, None, :, None]
            weights = weights.masked_fill_(absent, 0)
        # The point of a rank itself weighs 1, so that only ranks beyond the points weigh less.
        weights /= weights.sum(-1, keepdim=True).clamp_(min=1)
        ctx.save_for_backward(scores, order, ordered, weights)
        ctx.temperature, ctx.power = temperature, power
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        scores, order, ordered, weights = ctx.saved_tensors
        slope = gradient * weights
        slope -= weights * slope.sum(-1, keepdim=True)
        distances = ordered[..., :, None] - scores[..., None, :]
        slope *= distances if ctx.power == 2 else distances.sign_()
        slope *= ctx.power / ctx.temperature
        to_scores = slope.sum(-2).scatter_add_(-1, order, -slope.sum(-1))
        return to_scores, None, None, None


@dataclass(frozen=True)
class LaplaceSorting:
    """The soft permutation of LapSum: doubly stochastic for every temperature (a choice of ours;
    the ESPFormer uses SoftSort).

    Args:
        temperature: positive, in the units of the scores.

    Raises:
        ValueError: for a temperature that is not positive.
    """

    temperature: float

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def rank(
        self, scores: Tensor, mask: Tensor | None, dense: bool = False
    ) -> DenseRanking | LaplaceRanking:
        """As `Sorting.rank`."""
        if mask is not None:
            # So far below that no mass of a masked point gets to the others' ranks, nor back.
            low, high = (
                bound.detach() for bound in scores.masked_fill(~mask[:, None], 0).aminmax()
            )
            depth = (high - low) + 1000 * self.temperature
            scores = torch.where(mask[:, None], scores, low - depth)
        if not dense:
            return LaplaceRanking(scores, mask, self.temperature)
        matrices = soft_permutation(scores, self.temperature)
        if mask is not None:
            ranks = torch.arange(scores.shape[-1], device=scores.device)
            beyond = ranks >= mask.sum(1, keepdim=True)
            absent = ~mask[:, None, None, :] | beyond[:, None, :, None]
            matrices = matrices.masked_fill(absent, 0)
        return DenseRanking(matrices)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
