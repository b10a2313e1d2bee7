"""Fits a slicer to one pair of clouds, and the transport plan it then gives (arXiv 2511.19741).

`min_sliced_plan` is the whole method in one call; `fit_slicer` is its training loop, which per-pair
students share.
"""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sextant.methods.backbones.training import check_schedule, stop_if_diverged
from sextant.methods.numerics import (
    check_learns,
    outside_autocast,
    own_training,
    trainable,
    widened,
)
from sextant.methods.transport.ground import Cost, known_cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.inputs import (
    Points,
    check_scores,
    checked_cloud,
    checked_weights,
    own_slicer,
    pooled_units,
)
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.slicers import hard_plan
from sextant.methods.transport.sliced.training import (
    Keep,
    adamw,
    check_keep,
    check_weight_decay,
    progress_bar,
)


@dataclass(frozen=True)
class Fit:
    """How a fit went.

    Args:
        cost: hard-plan cost, on the whole pair, of the weights that were kept.
        curve: (iteration, hard-plan cost) at every evaluation, iteration 0 first.
    """

    cost: float
    curve: tuple[tuple[int, float], ...]


@own_training()
def fit_slicer(
    source: Tensor,
    target: Tensor,
    slicer: nn.Module,
    objective: Any = None,
    iterations: int = 400,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    batch_size: int = 512,
    generator: torch.Generator | None = None,
    evaluate_every: int = 20,
    keep: Keep = "best",
    progress: bool = False,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Fit:
    """Trains a slicer in place on one pair of clouds, with AdamW at a constant rate.

    Clouds of equal size up to `batch_size`, without weights, are used whole. Otherwise every step
    draws B = min(batch_size, N, M) rows of the source and, independently, B of the target: without
    replacement, or in proportion to their weights with replacement. The plan is always judged on
    the whole pair, before the first step, every `evaluate_every` steps and after the last one. The
    slicer's modules train in the modes they come in.

    Args:
        source: (N, d), on the slicer's device.
        target: (M, d).
        slicer: one score a point, without context.
        objective: see `sextant.methods.transport.sliced.objectives`; None for `SoftPermutation()`.
        iterations: optimizer steps; 0 only evaluates.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: most points of either cloud in a step.
        generator: a CPU generator for rows and the objective; None for one of seed 0.
        evaluate_every: steps between two evaluations.
        keep: "best" leaves the weights of the cheapest plan evaluated, "last" those of the end.
        progress: shows a bar with the time left and the best cost, relative to the first one.
        source_weights: (N,), not negative; None for equal ones.
        target_weights: (M,) likewise.

    Raises:
        TypeError, ValueError: for settings out of range, or clouds, weights or scores that do not
            fit one another.
        FloatingPointError: when the loss is not finite.
    """
    check_schedule(learning_rate, max(iterations, 1))
    check_weight_decay(weight_decay)
    check_keep(keep)
    for name, size, least in (
        ("iterations", iterations, 0),
        ("batch_size", batch_size, 1),
        ("evaluate_every", evaluate_every, 1),
    ):
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
    check_learns(slicer, "slicer")
    source, target = (trainable(widened(points)) for points in (source, target))
    objective = SoftPermutation() if objective is None else objective
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    weighted = source_weights is not None or target_weights is not None
    whole = len(source) == len(target) <= batch_size and not weighted
    batch = min(batch_size, len(source), len(target))
    optimizer = adamw(slicer.parameters(), learning_rate, weight_decay)
    best_cost, best_state, curve = math.inf, None, []
    with progress_bar(iterations, progress) as advance:
        for iteration in range(iterations + 1):
            if iteration % evaluate_every == 0 or iteration == iterations:
                plan = hard_plan(
                    slicer,
                    source,
                    target,
                    source_weights=source_weights,
                    target_weights=target_weights,
                )
                cost = plan.cost(source, target, objective.cost).item()
                curve.append((iteration, cost))
                if cost < best_cost:
                    # A copy: the state dict itself keeps pointing at the weights in training.
                    best_cost, best_state = cost, copy.deepcopy(slicer.state_dict())
                advance(iteration, best_cost / (curve[0][1] or 1.0))
            if iteration == iterations:
                break
            if whole:
                pair = source, target
            else:
                pair = (
                    _some_rows(source, batch, source_weights, generator),
                    _some_rows(target, batch, target_weights, generator),
                )
            loss = objective(slicer, pair[0][None], pair[1][None], None, generator)
            stop_if_diverged(loss, iteration, iterations)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if keep == "best" and best_state is not None:
        slicer.load_state_dict(best_state)
        cost = best_cost
    return Fit(cost, tuple(curve))


@dataclass(frozen=True, eq=False)
class FittedSlicer:
    """A slicer with the units it was trained in.

    It scores (x - centre) / scale, where centre and scale are those of the pair it was fitted to,
    also for other clouds: a cloud that moved is scored as one that moved.

    Args:
        slicer: the trained slicer, in evaluation mode.
        centre: (d,) float64, the mean of the pair's points, each cloud with half of the weight.
        scale: root mean square distance of these points from `centre`, divided by sqrt(d).
        cost: the ground cost it was trained for.
    """

    slicer: nn.Module
    centre: Tensor
    scale: float
    cost: Cost

    def scores(self, points: Points) -> Tensor:
        """Scores (n,) of a cloud (n, d), on its device; matching goes by their order.

        Raises:
            TypeError, ValueError: for points that are no cloud of the right dimension.
        """
        points = checked_cloud(points, "points")
        self._check_dimension(points, "points")
        weight = next(self.slicer.parameters(), points)
        with torch.no_grad(), outside_autocast():
            return self.slicer(self._standardised(points).to(weight), None).to(points.device)

    def transfer(
        self,
        new_source: Points,
        new_target: Points,
        source_weights: Points | None = None,
        target_weights: Points | None = None,
    ) -> SlicedTransport:
        """The plan between two other clouds by the slicer as it is: two sorts, no training.

        Good as far as the new pair resembles the old one; the plan is valid in any
        case, and its cost is an upper bound of the optimal one.

        Args:
            new_source: (N, d).
            new_target: (M, d).
            source_weights: (N,), not negative; None for equal ones.
            target_weights: (M,) likewise.

        Raises:
            TypeError, ValueError: for clouds or weights of other shapes, or not finite.
        """
        source, target = (
            checked_cloud(new_source, "new_source"),
            checked_cloud(new_target, "new_target"),
        )
        self._check_dimension(source, "new_source")
        self._check_dimension(target, "new_target")
        plan = hard_plan(
            self.slicer,
            self._standardised(source),
            self._standardised(target),
            source_weights=checked_weights(source_weights, "source_weights", source),
            target_weights=checked_weights(target_weights, "target_weights", target),
        )
        return SlicedTransport(plan, plan.cost(source, target, self.cost).item(), self)

    def _standardised(self, points: Tensor) -> Tensor:
        return (points.double() - self.centre.to(points.device)) / self.scale

    def _check_dimension(self, points: Tensor, name: str) -> None:
        if points.shape[1] != len(self.centre):
            raise ValueError(
                f"{name} must have {len(self.centre)} coordinates, as the pair the slicer was "
                f"fitted to, got {points.shape[1]}"
            )


@dataclass(frozen=True, eq=False)
class SlicedTransport:
    """A transport plan and what made it.

    Args:
        plan: who sends how much to whom.
        cost: the plan's cost in the user's own units.
        slicer: matches other pairs without training, see `FittedSlicer.transfer`.
    """

    plan: SparsePlan
    cost: float
    slicer: FittedSlicer


@own_training()
def min_sliced_plan(
    source: Points,
    target: Points,
    slicer: str | nn.Module = "mlp",
    cost: Cost = "sqeuclidean",
    source_weights: Points | None = None,
    target_weights: Points | None = None,
    iterations: int = 400,
    seed: int = 0,
    progress: bool | None = None,
) -> SlicedTransport:
    """A transport plan between two clouds from one learned slice.

    The slicer is trained to order both clouds so that matching equal ranks costs little. The plan
    is valid whatever it learned, and its cost an upper bound of the optimal one. Training steps see
    at most 512 points of each cloud; the plan itself takes a sort, so clouds may be large.

    >>> transport = min_sliced_plan(source, target)
    >>> transport.plan.target_of_source(), transport.cost
    >>> transport.slicer.transfer(other_source, other_target).cost

    Args:
        source: (N, d), a tensor or an array of floating-point numbers.
        target: (M, d) likewise; M may differ from N.
        slicer: "mlp" (a sine perceptron), "linear", "set_transformer", or a module called as
            slicer(points (..., N, d), None) -> (..., N); a copy of it is trained, its modules in
            the modes (training or evaluation) they come in.
        cost: "sqeuclidean" or "euclidean".
        source_weights: (N,), not negative, scaled to sum 1; None for equal ones.
        target_weights: (M,) likewise.
        iterations: training steps.
        seed: of the initial weights of a named slicer and of all drawing; equal calls agree.
        progress: shows a bar with the time left and the best cost, relative to the first one; None
            shows it where a person watches, on a terminal.

    Raises:
        TypeError, ValueError: for clouds or weights that are not as described, an unknown cost or
            slicer, or a slicer that does not give one score a point.
        FloatingPointError: when training diverges.
    """
    known_cost(cost)
    source, target = checked_cloud(source, "source"), checked_cloud(target, "target")
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            "source and target must have equally many coordinates, "
            f"got {source.shape[1]} and {target.shape[1]}"
        )
    source_weights = checked_weights(source_weights, "source_weights", source)
    target_weights = checked_weights(target_weights, "target_weights", target)
    slicer = own_slicer(slicer, source.shape[1], seed).to(source.device)
    centre, scale = pooled_units((source, source_weights), (target, target_weights))
    fitted = FittedSlicer(slicer, centre, scale, cost)
    weight = next(slicer.parameters(), source)
    pair = [fitted._standardised(points).to(weight) for points in (source, target)]
    check_scores(slicer, pair[0])
    fit_slicer(
        *pair,
        slicer,
        SoftPermutation(cost=cost),
        iterations=iterations,
        generator=torch.Generator().manual_seed(seed),
        progress=sys.stdout.isatty() if progress is None else progress,
        source_weights=source_weights,
        target_weights=target_weights,
    )
    slicer.eval().requires_grad_(False)
    return fitted.transfer(source, target, source_weights, target_weights)


def _some_rows(
    points: Tensor, count: int, weights: Tensor | None, generator: torch.Generator
) -> Tensor:
    """`count` rows of points (n, d) drawn by the generator, see `fit_slicer`."""
    if weights is None:
        rows = torch.randperm(len(points), generator=generator)[:count]
    else:
        # Positions on the cumulative weights: unlike torch.multinomial it has no limit on n.
        levels = weights.cpu().double().cumsum(0)
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * levels[-1]
        rows = torch.searchsorted(levels, drawn, right=True).clamp_(max=len(points) - 1)
    return points[rows.to(points.device)]
