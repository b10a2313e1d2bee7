"""Plans lifted from straight slices: the best of many directions (min-SWGG) and their average.

A direction theta orders points by <theta, x>. Both constructions look at a bank of directions:
min-SWGG keeps the plan of lowest cost in space (arXiv 2307.01770), the expected sliced plan
averages all of them with weights softmax(-beta cost) (arXiv 2410.12176). Every point of a cloud has
the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sextant.methods.numerics import check_floating, divided, outside_autocast, unit, widened
from sextant.methods.transport.ground import Cost, known_cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.lifted import RankCoupling, descending_order, uniform_ranks
from sextant.ranges import at_least

CHUNK_SCORES = 2**21
"""Scores of a cloud that are sorted at a time, whatever the number of directions."""

CHUNK_COORDINATES = {"cpu": 2**17, "cuda": 2**26}
"""Coordinates of paired points at a time: on the CPU as many as stay in its cache (three times
faster than 2**21), on a GPU as many as keep it busy."""


class MinSliced(NamedTuple):
    """The best of a bank of directions: its plan, its cost (0-d) and its row in the bank."""

    plan: SparsePlan
    cost: Tensor
    index: int


def random_directions(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Unit vectors drawn uniformly from the sphere, (count, dimension) float64.

    Args:
        count: how many, at least 1.
        dimension: their coordinates, at least 1.
        generator: a CPU generator, the only source of randomness.

    Raises:
        ValueError: for a count or dimension below 1.
    """
    at_least(1, count=count, dimension=dimension)
    normal = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    return normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)


def min_sliced(source: Tensor, target: Tensor, directions: Tensor, cost: Cost) -> MinSliced:
    """The plan of lowest cost among those lifted from a bank of directions (min-SWGG).

    O(L n (d + log n)) time for L directions and memory for one chunk of them; no (N, M) matrix.
    Points of equal projection are ranked in the order they stand in.

    Args:
        source: (N, d).
        target: (M, d), of the same dtype and device.
        directions: (L, d), of any positive lengths, moved to the points' dtype and device.
        cost: "euclidean" or "sqeuclidean"; the cost is returned in the dtype of the points, float32
            for half precision.

    Raises:
        TypeError: for points that are no tensors of floating-point numbers, or of two dtypes.
        ValueError: for an unknown cost, clouds or directions that do not fit each other, or that
            are empty or not finite.
    """
    slices = SlicedClouds(source, target, cost)
    best: MinSliced | None = None
    for first, source_order, target_order, costs in slices.chunks(directions):
        least, index = costs.min(0)
        if best is None or least < best.cost:
            plan = slices.plan(source_order[index], target_order[index])
            best = MinSliced(plan, least, first + int(index))
    return best._replace(cost=slices.in_users_units(best.cost))


def sliced_costs(source: Tensor, target: Tensor, directions: Tensor, cost: Cost) -> Tensor:
    """Cost of the plan lifted from each direction, (L,); arguments and errors as `min_sliced`."""
    return SlicedClouds(source, target, cost).costs(directions)


def expected_sliced(
    source: Tensor, target: Tensor, directions: Tensor, cost: Cost, beta: float
) -> SparsePlan:
    """The average of the plans lifted from each direction, weighted by softmax(-beta cost).

    At most L (N + M - 1) entries, one a pair. beta = 0 weighs all directions alike, and large beta
    leaves the plan of `min_sliced`.

    Args:
        source, target, directions, cost: as in `min_sliced`.
        beta: inverse temperature, per unit of cost, not negative.

    Raises:
        TypeError, ValueError: as `min_sliced`, and for a negative or infinite beta.
    """
    if not 0 <= beta < torch.inf:
        raise ValueError(f"beta must be finite and not negative, got {beta}")
    slices = SlicedClouds(source, target, cost)
    sources, targets, costs = [], [], []
    for _, source_order, target_order, chunk in slices.chunks(directions):
        source_index, target_index = slices.paired(source_order, target_order)
        sources.append(source_index)
        targets.append(target_index)
        costs.append(chunk)
    weights = torch.softmax(-beta * slices.in_users_units(torch.cat(costs).double()), 0)
    # A direction whose masses vanish in rounding has no entries.
    seen = (weights * slices.ranks.mass.min() > 0).nonzero()[:, 0]
    source_index, target_index = (torch.cat(some) for some in (sources, targets))
    if len(seen) < len(weights):
        source_index, target_index, weights = source_index[seen], target_index[seen], weights[seen]
    mass = (weights[:, None] * slices.ranks.mass).flatten()
    plan = SparsePlan(source_index.flatten(), target_index.flatten(), mass, slices.shape)
    return plan.coalesced()


class SlicedClouds:
    """Two clouds that many directions are tried on, a chunk of directions at a time.

    Args:
        source, target, cost: as in `min_sliced`, also the errors.
    """

    def __init__(self, source: Tensor, target: Tensor, cost: Cost) -> None:
        self.cost = known_cost(cost)
        _check(source, "source", source)
        _check(target, "target", source)
        if source.dtype != target.dtype:
            raise TypeError(
                f"source and target must be of one dtype, got {source.dtype} and {target.dtype}"
            )
        source, target = widened(source.detach()), widened(target.detach())
        # Squares of very large or small coordinates are no numbers in float32.
        self.unit = unit(source, target, dtype=source.dtype)
        self.source, self.target = divided(source, self.unit), divided(target, self.unit)
        self.shape = (len(source), len(target))
        self.ranks: RankCoupling = uniform_ranks(*self.shape, source.device)
        self.same_size = self.shape[0] == self.shape[1]

    @torch.no_grad()
    def chunks(self, directions: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """First direction of a chunk, its orders (chunk, N) and (chunk, M), and costs (chunk,).

        Costs are of the clouds divided by `unit`; see `in_users_units`.
        """
        _check(directions, "directions", self.source)
        directions = directions.detach().to(self.source)
        chunk = max(1, CHUNK_SCORES // max(self.shape))
        for first in range(0, len(directions), chunk):
            some = directions[first : first + chunk]
            with outside_autocast():
                source_order = descending_order(some @ self.source.t())
                target_order = descending_order(some @ self.target.t())
            yield first, source_order, target_order, self._costs(source_order, target_order)

    def costs(self, directions: Tensor) -> Tensor:
        """Cost of the plan lifted from each of the directions (L, d): (L,)."""
        found = torch.cat([costs for _, _, _, costs in self.chunks(directions)])
        return self.in_users_units(found)

    def in_users_units(self, costs: Tensor) -> Tensor:
        """Costs of the clouds as they are, from those of the clouds divided by `unit`."""
        if self.unit == 1.0:
            return costs
        power = 1 if self.cost == "euclidean" else 2
        return (costs.double() * self.unit**power).to(costs.dtype)

    def paired(self, source_order: Tensor, target_order: Tensor) -> tuple[Tensor, Tensor]:
        """Source and target index of each entry, (chunk, E) both, from orders of the points."""
        if self.same_size:
            return source_order, target_order
        return (
            source_order.index_select(1, self.ranks.source_rank),
            target_order.index_select(1, self.ranks.target_rank),
        )

    def _costs(self, source_order: Tensor, target_order: Tensor) -> Tensor:
        """Cost of each direction of a chunk, (chunk,)."""
        numbers = CHUNK_COORDINATES.get(self.source.device.type, CHUNK_COORDINATES["cpu"])
        chunk = max(1, numbers // (len(self.ranks.mass) * self.source.shape[1]))
        pairs = zip(source_order.split(chunk), target_order.split(chunk), strict=True)
        return torch.cat([self._chunk_costs(*some) for some in pairs])

    def _chunk_costs(self, source_index: Tensor, target_index: Tensor) -> Tensor:
        source_index, target_index = self.paired(source_index, target_index)
        # Rows are taken by flat indices: several times faster than by a matrix of indices.
        difference = self.source.index_select(0, source_index.flatten())
        difference -= self.target.index_select(0, target_index.flatten())
        if self.cost == "euclidean":
            costs = torch.linalg.vector_norm(difference, dim=1).view(source_index.shape)
        elif self.same_size:
            return difference.square_().view(len(source_index), -1).sum(1) / self.shape[0]
        else:
            costs = difference.square_().sum(1).view(source_index.shape)
        if self.same_size:
            return costs.mean(1)
        with outside_autocast():
            return costs @ self.ranks.mass.to(costs)

    def plan(self, source_order: Tensor, target_order: Tensor) -> SparsePlan:
        """The plan of one direction from its orders (N,) and (M,)."""
        source_index, target_index = self.paired(source_order[None], target_order[None])
        return SparsePlan(source_index[0], target_index[0], self.ranks.mass, self.shape)


def _check(points: Tensor, name: str, source: Tensor) -> None:
    check_floating(points, name)
    if points.ndim != 2 or points.numel() == 0 or points.shape[1] != source.shape[1]:
        raise ValueError(
            f"{name} must have shape (n, d) with n >= 1 and the d of the source, "
            f"got {tuple(points.shape)}"
        )
    if not torch.isfinite(points).all():
        raise ValueError(f"{name} has NaN or infinite entries; every one must be finite")
