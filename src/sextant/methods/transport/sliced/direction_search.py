"""Searching one good direction: smooth and annealed min-SWGG (arXiv 2307.01770).

The cost of the plan lifted from a direction is piecewise constant in the direction, so it has no
gradient to follow. The smooth search blurs the ranks; the annealed search needs no gradient.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sextant.methods.numerics import outside_autocast, own_training, trainable, widened
from sextant.methods.transport.ground import Cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.directions import (
    SlicedClouds,
    min_sliced,
    random_directions,
)
from sextant.ranges import at_least, not_negative, positive

Optimiser = Literal["sgd", "adam"]


class DirectionSearch(NamedTuple):
    """The best direction of a search.

    Args:
        direction: unit vector (d,).
        plan: lifted from it.
        cost: of the plan, 0-d.
        curve: cost of the plan of each direction visited, (steps + 1,); the start first.
    """

    direction: Tensor
    plan: SparsePlan
    cost: Tensor
    curve: Tensor


@outside_autocast()
def smooth_sliced_loss(
    source: Tensor, target: Tensor, direction: Tensor, noise: Tensor | None = None
) -> Tensor:
    """The squared cost of the plan lifted from a direction, smoothed by noise on the ranks; 0-d.

    With x_k and y_k the points of rank k, z_k the point of the line halfway between their
    projections and m_k the midpoint of x_k and y_k, the parallelogram law says
    |x_k - y_k|^2 = 2 |x_k - z_k|^2 + 2 |y_k - z_k|^2 - 4 |m_k - z_k|^2. Here m_k is the mean of s
    midpoints, each from sorting the projections again with noise added. Without noise the loss is
    the plain cost, and its gradient in the direction is 0.

    Args:
        source, target: (n, d) each.
        direction: (d,), carries the gradient; of length 1.
        noise: (2, s, n), added to the ascending projections of the source and of the target;
            None for one copy without noise.

    Raises:
        ValueError: for clouds of unequal size, or noise of another shape.
    """
    n = len(source)
    if source.shape != target.shape:
        raise ValueError(
            "source and target must hold equally many points of equally many coordinates, "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    if noise is not None and (noise.ndim != 3 or noise.shape[0] != 2 or noise.shape[2] != n):
        raise ValueError(f"noise must have shape (2, s, {n}), got {tuple(noise.shape)}")
    source, target = widened(source), widened(target)
    source_line, source_order = (source @ direction).sort(stable=True)
    target_line, target_order = (target @ direction).sort(stable=True)
    source, target = source[source_order], target[target_order]
    halfway = (0.5 * (source_line + target_line))[:, None] * direction
    middle = 0.5 * (source + target)
    if noise is not None:
        source_blur = (source_line.detach() + noise[0]).argsort(dim=-1, stable=True)
        target_blur = (target_line.detach() + noise[1]).argsort(dim=-1, stable=True)
        middle = 0.5 * (source[source_blur] + target[target_blur]).mean(0)
    squares = 2 * (source - halfway).square() + 2 * (target - halfway).square()
    return (squares - 4 * (middle - halfway).square()).sum() / n


@own_training()
def smooth_min_sliced(
    source: Tensor,
    target: Tensor,
    generator: torch.Generator,
    cost: Cost = "sqeuclidean",
    start: Tensor | None = None,
    steps: int = 100,
    copies: int = 10,
    noise: float = 0.1,
    learning_rate: float = 1e-2,
    optimiser: Optimiser = "sgd",
) -> DirectionSearch:
    """Gradient descent on `smooth_sliced_loss`; the direction is scaled to length 1 after a step.

    The loss is a squared cost whatever `cost` is; `cost` judges the plans of the directions
    visited, and the best of them is returned.

    Args:
        source, target: (n, d) each.
        generator: a CPU generator, the only source of randomness.
        cost: "euclidean" or "sqeuclidean".
        start: (d,), not 0; None draws it uniformly from the sphere.
        steps: gradient steps.
        copies: noisy copies s of the projections.
        noise: twice the standard deviation of the noise, in units of the points; 0 moves nothing.
        learning_rate: of the optimiser.
        optimiser: "sgd" or "adam".

    Raises:
        TypeError, ValueError: as `min_sliced`, for clouds of unequal size, and for settings outside
            these ranges.
    """
    at_least(1, copies=copies)
    not_negative(noise=noise)
    positive(learning_rate=learning_rate)
    if optimiser not in get_args(Optimiser):
        raise ValueError(f"optimiser must be 'sgd' or 'adam', got {optimiser!r}")
    source, target = (trainable(widened(points.detach())) for points in (source, target))
    walk = _Walk(source, target, cost, _start(source, start, generator), steps)
    direction = walk.best.clone().requires_grad_()
    kind = torch.optim.SGD if optimiser == "sgd" else torch.optim.Adam
    descent = kind([direction], lr=learning_rate)
    for _ in range(steps):
        blur = torch.randn(2, copies, len(source), generator=generator, dtype=torch.float64)
        loss = smooth_sliced_loss(source, target, direction, 0.5 * noise * blur.to(source))
        direction.grad = torch.autograd.grad(loss, direction)[0]
        descent.step()
        with torch.no_grad():
            direction.div_(torch.linalg.vector_norm(direction))
        walk.visit(direction.detach().clone())
    return walk.result()


def annealed_min_sliced(
    source: Tensor,
    target: Tensor,
    generator: torch.Generator,
    cost: Cost = "sqeuclidean",
    start: Tensor | None = None,
    steps: int = 500,
    step_size: float = 0.1,
    temperature: float = 1.0,
) -> DirectionSearch:
    """Simulated annealing: a random walk on the sphere that Metropolis' rule accepts or rejects.

    A proposal of higher cost is accepted with probability exp(-increase / T), where T falls
    linearly from `temperature` to 0. The best direction proposed is returned; `curve` holds the
    costs of the directions the walk stood on.

    Args:
        source: (N, d).
        target: (M, d).
        generator: a CPU generator, the only source of randomness.
        cost: "euclidean" or "sqeuclidean".
        start: (d,), not 0; None draws it uniformly from the sphere.
        steps: proposals.
        step_size: standard deviation of a proposal, each coordinate, before it is scaled to
            length 1.
        temperature: the first one, in units of the cost.

    Raises:
        TypeError, ValueError: as `min_sliced`, and for settings outside these ranges.
    """
    positive(step_size=step_size)
    not_negative(temperature=temperature)
    source, target = widened(source.detach()), widened(target.detach())
    walk = _Walk(source, target, cost, _start(source, start, generator), steps)
    direction, current = walk.best, walk.curve[0]
    for step in range(steps):
        move = torch.randn(len(direction), generator=generator, dtype=torch.float64)
        chance = torch.rand((), generator=generator, dtype=torch.float64).item()
        proposal = direction + step_size * move.to(direction)
        proposal = proposal / torch.linalg.vector_norm(proposal)
        found = walk.visit(proposal)
        now = temperature * (1 - step / max(1, steps - 1))
        if accepts(found - current, now, chance):
            direction, current = proposal, found
        walk.curve[-1] = current
    return walk.result()


def accepts(increase: float, temperature: float, chance: float) -> bool:
    """Metropolis' rule: whether a proposal that costs `increase` more is accepted.

    Args:
        increase: in cost; proposals that cost no more are always accepted.
        temperature: not negative; at 0 no increase is accepted.
        chance: a uniform random number of [0, 1).
    """
    if increase <= 0:
        return True
    return temperature > 0 and chance < math.exp(-increase / temperature)


def _start(source: Tensor, start: Tensor | None, generator: torch.Generator) -> Tensor:
    if start is None:
        return random_directions(1, source.shape[-1], generator)[0].to(source)
    if start.shape != source.shape[-1:] or not 0 < start.norm() < torch.inf:
        raise ValueError(
            f"start must be a finite vector ({source.shape[-1]},) other than 0, got shape "
            f"{tuple(start.shape)}"
        )
    start = start.detach().to(source)
    return start / torch.linalg.vector_norm(start)


class _Walk:
    """Costs of the directions a search visits, and the best of them."""

    def __init__(
        self, source: Tensor, target: Tensor, cost: Cost, start: Tensor, steps: int
    ) -> None:
        not_negative(steps=steps)
        self.source, self.target, self.cost = source, target, cost
        self.clouds = SlicedClouds(source, target, cost)
        self.curve: list[float] = []
        self.best, self.least = start, torch.inf
        self.visit(start)

    def visit(self, direction: Tensor) -> float:
        """The cost of the plan lifted from a direction (d,)."""
        cost = self.clouds.costs(direction[None]).item()
        if cost < self.least:
            self.best, self.least = direction, cost
        self.curve.append(cost)
        return cost

    def result(self) -> DirectionSearch:
        """The best direction with its plan and the whole curve."""
        plan, cost, _ = min_sliced(self.source, self.target, self.best[None], self.cost)
        return DirectionSearch(self.best, plan, cost, torch.tensor(self.curve, dtype=torch.float64))
