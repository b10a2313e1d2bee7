"""Transport plans with few entries: who sends how much to whom, without an (N, M) matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sextant.methods.numerics import unit, widened
from sextant.methods.transport.ground import Cost, paired_cost

ALLOWED_MASS_ERROR = 1e-4
"""Largest distance of the total mass from 1; float32 masses of a million entries stay below."""


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """A plan between N source and M target points that moves a total mass of 1.

    Entry e moves `mass[e]` from source point `source_index[e]` to target point `target_index[e]`;
    a pair may occur more than once, its masses then add up.

    Args:
        source_index: int64 (E,), in 0..N-1.
        target_index: int64 (E,), in 0..M-1.
        mass: floating-point (E,), not negative, of sum 1.
        shape: (N, M).

    Raises:
        TypeError: for indices that are not int64, or masses that are no floating-point numbers.
        ValueError: for vectors of unequal length, indices outside the shape, negative or NaN
            masses, or a total mass that is not 1.
    """

    source_index: Tensor
    target_index: Tensor
    mass: Tensor
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        for name, points in (("source_index", self.shape[0]), ("target_index", self.shape[1])):
            index = getattr(self, name)
            if index.dtype != torch.int64:
                raise TypeError(f"{name} must be an int64 tensor of row numbers, got {index.dtype}")
            if index.ndim != 1 or index.shape != self.mass.shape or index.numel() == 0:
                raise ValueError(
                    f"{name} must be a vector as long as mass and not empty, "
                    f"got shapes {tuple(index.shape)} and {tuple(self.mass.shape)}"
                )
            low, high = (int(bound) for bound in index.aminmax())
            if low < 0 or high >= points:
                raise ValueError(f"{name} must be in 0..{points - 1}, got {low}..{high}")
        if not self.mass.is_floating_point():
            raise TypeError(f"mass must be floating-point numbers, got {self.mass.dtype}")
        least, total = self.mass.min().item(), self.mass.sum(dtype=torch.float64).item()
        if not least >= 0 or not abs(total - 1) <= ALLOWED_MASS_ERROR:
            raise ValueError(
                f"mass must be non-negative and sum to 1, got a least mass {least} and sum {total}"
            )

    def cost(self, source: Tensor, target: Tensor, cost: Cost) -> Tensor:
        """Cost <plan, C> of the plan between source (N, d) and target (M, d), 0-d.

        In the dtype of the masses, and differentiable in both clouds. Distances are taken in the
        clouds' own precision where their squares are numbers of it, else in float64.

        Raises:
            TypeError, ValueError: for clouds that do not fit the plan, or an unknown cost.
        """
        self._check(source, target)
        source, target = widened(source), widened(target)
        if source.numel() and unit(source, target, dtype=source.dtype) != 1.0:
            source, target = source.double(), target.double()
        pairs = paired_cost(*self._pairs(source, target), cost)
        return (pairs.to(self.mass.dtype) * self.mass).sum()

    def dense(self) -> Tensor:
        """The plan as a matrix (N, M) of mass's dtype."""
        matrix = self.mass.new_zeros(self.shape)
        return matrix.index_put_((self.source_index, self.target_index), self.mass, accumulate=True)

    def transpose(self) -> SparsePlan:
        """The same plan read from target to source, of shape (M, N)."""
        return SparsePlan(self.target_index, self.source_index, self.mass, self.shape[::-1])

    def coalesced(self) -> SparsePlan:
        """The same plan with one entry a pair, in the order of (source, target) indices."""
        flat, entry = torch.unique(
            self.source_index * self.shape[1] + self.target_index, return_inverse=True
        )
        mass = self.mass.new_zeros(len(flat)).index_add_(0, entry, self.mass)
        return SparsePlan(flat // self.shape[1], flat % self.shape[1], mass, self.shape)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Mass leaving each source point (N,) and reaching each target point (M,)."""
        source, target = (self.mass.new_zeros(points) for points in self.shape)
        source.index_add_(0, self.source_index, self.mass)
        return source, target.index_add_(0, self.target_index, self.mass)

    def barycentric(self, target: Tensor) -> Tensor:
        """Mean target point that each source point sends its mass to: (N, d), in target's dtype
        (float32 for half precision).

        These are averages of data, not data; see `sextant.methods.transport.pairs.take_pairs`.

        Raises:
            ValueError: for a target that is not (M, d), or a source point that has no mass.
        """
        self._check(None, target)
        target = widened(target)
        leaving, _ = self.marginals()
        if not (leaving > 0).all():
            raise ValueError("plan must give every source point mass to have barycentric images")
        share = (self.mass / leaving[self.source_index]).to(target.dtype)
        image = target.new_zeros(self.shape[0], target.shape[1])
        return image.index_add(0, self.source_index, share[:, None] * target[self.target_index])

    def interpolate(self, source: Tensor, target: Tensor, t: float) -> Tensor:
        """Points (1 - t) x + t y of every entry, (E, d); they carry the entries' masses.

        At t = 0 they are the source, at t = 1 the target.

        Raises:
            ValueError: for clouds that do not fit the plan.
        """
        self._check(source, target)
        return torch.lerp(*self._pairs(widened(source), widened(target)), t)

    @property
    def is_bijection(self) -> bool:
        """Whether every source point sends to one target point and no two to the same."""
        if not self.shape[0] == self.shape[1] == len(self.mass):
            return False
        return all(
            bool((index.bincount(minlength=len(index)) == 1).all())
            for index in (self.source_index, self.target_index)
        )

    def target_of_source(self) -> Tensor:
        """Target point of each source point, int64 (N,).

        Raises:
            ValueError: for a plan that is no bijection.
        """
        if not self.is_bijection:
            raise ValueError(
                f"plan must be a bijection to name one target a source point, got {len(self.mass)} "
                f"entries between {self.shape[0]} and {self.shape[1]} points"
            )
        index = torch.empty_like(self.target_index)
        return index.scatter_(0, self.source_index, self.target_index)

    def _pairs(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        # Several times faster than indexing by brackets.
        return source.index_select(0, self.source_index), target.index_select(0, self.target_index)

    def _check(self, source: Tensor | None, target: Tensor) -> None:
        clouds = (("source", source, self.shape[0]), ("target", target, self.shape[1]))
        for name, points, count in clouds:
            if points is not None and (points.ndim != 2 or len(points) != count):
                raise ValueError(
                    f"{name} must have shape ({count}, d) to fit the plan, "
                    f"got {tuple(points.shape)}"
                )
