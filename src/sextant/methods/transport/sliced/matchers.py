"""Students that match two clouds without being trained: the baselines of min-STP.

Each is asked `match(source (N, d), target (M, d))` and answers with a plan whose marginals are
uniform, so its cost is never below that of optimal transport. Randomness comes from the run's
streams alone, and equal questions get equal answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.methods.numerics import divided, unit, widened
from sextant.methods.transport.costs import flat_cloud
from sextant.methods.transport.exact import assign
from sextant.methods.transport.ground import Cost, ground_cost, known_cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sinkhorn import sinkhorn_plan
from sextant.methods.transport.sliced.direction_search import (
    Optimiser,
    annealed_min_sliced,
    smooth_min_sliced,
)
from sextant.methods.transport.sliced.directions import (
    expected_sliced,
    min_sliced,
    random_directions,
    sliced_costs,
)
from sextant.ranges import at_least, positive


class Matching:
    """What the students of this module share."""

    _streams: Streams | None = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Keeps the streams that random directions are drawn from."""
        self._streams = streams

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """A plan between source (N, d) and target (M, d) with uniform marginals.

        Raises:
            TypeError, ValueError: for clouds that are no finite floating-point points of one
                dimension, and before `prepare` where random numbers are needed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it matches")

    def _generator(self) -> torch.Generator:
        """The same random numbers at every call."""
        if self._streams is None:
            raise ValueError(
                f"{type(self).__name__} has no random streams yet; call prepare(streams, parents, "
                "data) first"
            )
        return self._streams.generator("directions", 0)


class IndependentMatching(Matching):
    """The product plan: every source point sends 1/M of its mass to every target point.

    It is the expectation of a uniformly random matching, and its cost is mean(C) without noise.
    """

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`; the plan has N M entries."""
        return _sparse(_product(source, target))


class ExactMatching(Matching):
    """Optimal transport: the cheapest permutation, or POT's network simplex for unequal sizes.

    Args:
        cost: "euclidean" or "sqeuclidean".

    Raises:
        ValueError: for an unknown cost.
    """

    def __init__(self, cost: Cost = "euclidean") -> None:
        self.cost = known_cost(cost)

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`; solved in float64 on the CPU, O(N^3) time and O(N M) memory."""
        cost = ground_cost(source.detach().double(), target.detach().double(), self.cost)
        n, m = cost.shape
        if n == m:
            mass = torch.full((n,), 1 / n, dtype=torch.float64, device=source.device)
            return SparsePlan(torch.arange(n, device=source.device), assign(cost), mass, (n, m))
        import ot

        uniform = (np.full(points, 1 / points) for points in (n, m))
        plan = ot.emd(*uniform, cost.cpu().numpy(), numItermax=10_000_000)
        return _sparse(torch.from_numpy(plan).to(source.device))


class SinkhornMatching(Matching):
    """Entropic transport, rounded to exactly uniform marginals so that its cost bounds OT's.

    Args:
        cost: "euclidean" or "sqeuclidean".
        epsilon: regularisation, relative to the mean cost.
        iterations: most Sinkhorn iterations.
        tolerance: they end earlier once every column has its mass up to this share; None never.

    Raises:
        ValueError: for an unknown cost, or settings that are not positive.
    """

    def __init__(
        self,
        cost: Cost = "euclidean",
        epsilon: float = 0.05,
        iterations: int = 1000,
        tolerance: float | None = 1e-3,
    ) -> None:
        positive(epsilon=epsilon)
        at_least(1, iterations=iterations)
        if tolerance is not None:
            positive(tolerance=tolerance)
        self.cost, self.epsilon = known_cost(cost), epsilon
        self.most_iterations, self.tolerance = iterations, tolerance

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`; the plan has up to N M entries."""
        source, target = widened(source.detach()), widened(target.detach())
        by = unit(source, target, dtype=source.dtype)
        cost = ground_cost(divided(source, by), divided(target, by), self.cost)
        mean = cost.mean().item()
        # Clouds that are one point each: every plan costs nothing.
        epsilon = self.epsilon * mean if mean > 0 else 1.0
        plan = sinkhorn_plan(cost, epsilon, self.most_iterations, self.tolerance)
        return _sparse(round_to_marginals(plan.double()))


class MinSlicedMatching(Matching):
    """min-SWGG: the best of random directions, on each pair anew.

    Args:
        cost: "euclidean" or "sqeuclidean".
        directions: how many are drawn, at least 1.

    Raises:
        ValueError: for an unknown cost or no directions.
    """

    def __init__(self, cost: Cost = "euclidean", directions: int = 50) -> None:
        self.cost, self.directions = known_cost(cost), _positive(directions)

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`."""
        bank = random_directions(self.directions, source.shape[-1], self._generator())
        return min_sliced(source, target, bank, self.cost).plan


class ExpectedSlicedMatching(Matching):
    """The expected sliced plan of random directions.

    Args:
        cost: "euclidean" or "sqeuclidean".
        directions: how many are drawn, at least 1.
        beta: inverse temperature of their weights, per unit of cost; 0 weighs all alike.

    Raises:
        ValueError: for an unknown cost, no directions or a negative beta.
    """

    def __init__(self, cost: Cost = "euclidean", directions: int = 50, beta: float = 200.0) -> None:
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be finite and not negative, got {beta}")
        self.cost, self.directions, self.beta = known_cost(cost), _positive(directions), beta

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`."""
        bank = random_directions(self.directions, source.shape[-1], self._generator())
        return expected_sliced(source, target, bank, self.cost, self.beta)


class SmoothMinSliced(Matching):
    """min-SWGG with one direction found by gradient descent on a smoothed cost, on each pair anew.

    Args:
        cost: "euclidean" or "sqeuclidean"; see `smooth_min_sliced`, also for the other settings.
        steps, copies, noise, learning_rate, optimiser: of the descent.

    Raises:
        ValueError: for an unknown cost.
    """

    def __init__(
        self,
        cost: Cost = "sqeuclidean",
        steps: int = 100,
        copies: int = 10,
        noise: float = 0.1,
        learning_rate: float = 1e-2,
        optimiser: Optimiser = "sgd",
    ) -> None:
        self.cost = known_cost(cost)
        self.settings = {
            "steps": steps,
            "copies": copies,
            "noise": noise,
            "learning_rate": learning_rate,
            "optimiser": optimiser,
        }

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`; the clouds must hold equally many points."""
        generator = self._generator()
        return smooth_min_sliced(source, target, generator, self.cost, **self.settings).plan


class AnnealedMinSliced(Matching):
    """min-SWGG with one direction found by simulated annealing, on each pair anew.

    Args:
        cost: "euclidean" or "sqeuclidean"; see `annealed_min_sliced`, also for the other settings.
        steps, step_size, temperature: of the annealing.

    Raises:
        ValueError: for an unknown cost.
    """

    def __init__(
        self,
        cost: Cost = "sqeuclidean",
        steps: int = 500,
        step_size: float = 0.1,
        temperature: float = 1.0,
    ) -> None:
        self.cost = known_cost(cost)
        self.settings = {"steps": steps, "step_size": step_size, "temperature": temperature}

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`."""
        generator = self._generator()
        return annealed_min_sliced(source, target, generator, self.cost, **self.settings).plan


class TransferredDirection(Matching):
    """One direction for every pair: the linear counterpart of a slicer used zero-shot.

    Of random directions it keeps the one whose plans cost least on average over the pairs it is
    shown: the first problem of a sequence, or a task's training pairs. It never looks at costs of
    the pairs it is asked about.

    Args:
        cost: "euclidean" or "sqeuclidean".
        directions: how many are compared, at least 1.

    Raises:
        ValueError: for an unknown cost or no directions.
    """

    def __init__(self, cost: Cost = "euclidean", directions: int = 500) -> None:
        self.cost, self.directions = known_cost(cost), _positive(directions)
        self.direction: Tensor | None = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Chooses the direction on `data.problem(0)` or `data.evaluation_pairs("train")`.

        Raises:
            TypeError: for a data module that has neither.
        """
        super().prepare(streams, parents, data)
        if callable(getattr(data, "problem", None)):
            pairs = [data.problem(0)]
        elif callable(getattr(data, "evaluation_pairs", None)):
            pairs = list(data.evaluation_pairs("train"))
        else:
            raise TypeError(
                "data must have problem(number) or evaluation_pairs(split) for a direction to be "
                f"chosen on, got {type(data).__name__}"
            )
        bank = random_directions(self.directions, pairs[0][0].shape[-1], self._generator())
        costs = [sliced_costs(source, target, bank, self.cost).double() for source, target in pairs]
        self.direction = bank[torch.stack(costs).mean(0).argmin()]

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """See `Matching.match`."""
        if self.direction is None:
            raise ValueError(
                "TransferredDirection has no direction yet; call prepare(streams, parents, data) "
                "first"
            )
        return min_sliced(source, target, self.direction[None], self.cost).plan


@torch.no_grad()
def round_to_marginals(plan: Tensor) -> Tensor:
    """A plan (n, m) moved to uniform marginals (Altschuler et al., arXiv 1705.09634, algorithm 2).

    Rows, then columns, that are too heavy are scaled down; what is missing is added as a product.
    The result is at most twice as far from the plan as the plan's marginals are from uniform.

    Args:
        plan: not negative, floating-point, of total mass about 1.

    Raises:
        ValueError: for a plan that is no matrix with entries, or has negative or NaN ones.
    """
    if plan.ndim != 2 or plan.numel() == 0 or not (plan >= 0).all():
        raise ValueError(
            f"plan must be a matrix of entries >= 0, got one of shape {tuple(plan.shape)} "
            "with other entries or none"
        )
    plan = widened(plan)
    for axis in (1, 0):
        wanted = 1 / plan.shape[1 - axis]
        plan = plan * (wanted / plan.sum(axis, keepdim=True)).clamp_(max=1.0)
    rows = (1 / plan.shape[0] - plan.sum(1)).clamp_(min=0.0)
    columns = (1 / plan.shape[1] - plan.sum(0)).clamp_(min=0.0)
    missing = rows.sum()
    return plan + rows[:, None] * columns / missing if missing > 0 else plan


def _product(source: Tensor, target: Tensor) -> Tensor:
    n, m = len(flat_cloud(source, "source")), len(flat_cloud(target, "target"))
    return torch.full((n, m), 1 / (n * m), dtype=torch.float64, device=source.device)


def _sparse(plan: Tensor) -> SparsePlan:
    source_index, target_index = plan.nonzero(as_tuple=True)
    mass = plan[source_index, target_index]
    return SparsePlan(source_index, target_index, mass, tuple(plan.shape))


def _positive(directions: int) -> int:
    at_least(1, directions=directions)
    return directions
