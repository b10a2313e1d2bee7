"""Sliced couplings for the training step of a flow (arXiv 2511.19741).

Points of two batches are scored, and equal ranks are paired: a bijection for the price of sorting.
The pairs are what a transport plan of a slicer is made of, so their cost is never below that of
the exact plan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.backbones.training import (
    adam_with_cosine,
    check_schedule,
    stop_if_diverged,
)
from sextant.methods.numerics import check_learns, outside_autocast, own_training
from sextant.methods.transport.costs import flat_clouds
from sextant.methods.transport.couplings import Coupling
from sextant.methods.transport.exact import monotone
from sextant.methods.transport.ground import Cost, known_cost
from sextant.methods.transport.pairs import Pairs, in_batch_order
from sextant.methods.transport.sliced.directions import min_sliced, random_directions
from sextant.ranges import at_least, positive


class MinSlicedPairs(Coupling):
    """The cheapest of the bijections that random directions give a batch (min-SWGG).

    Every batch gets fresh directions: nothing is learned, and nothing is carried to the next one.

    Args:
        cost: what the pairs of a direction are compared by, "sqeuclidean" or "euclidean".
        directions: drawn uniformly on the sphere for each batch.

    Raises:
        ValueError: for an unknown cost, or fewer than one direction.
    """

    def __init__(self, cost: Cost = "sqeuclidean", directions: int = 50) -> None:
        at_least(1, directions=directions)
        self.cost, self.directions = known_cost(cost), directions

    @torch.no_grad()
    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`."""
        source, target = flat_clouds(source, target)
        directions = random_directions(self.directions, source.shape[1], generator)
        plan, _, _ = min_sliced(source, target, directions, self.cost)
        return in_batch_order(plan.target_of_source())


class LearnedSlicePairs(Coupling):
    """The bijection that sorts a batch by one learned slicer (min-STP).

    `prepare` trains the slicer on fresh minibatches of the two laws, on the CPU, with numbers that
    depend on the run's streams alone: an interrupted run that begins again gets the same slicer to
    the last bit. Afterwards the slicer stays as it is, and a batch costs one forward pass a side
    and two sorts. Its weights are no part of the flow's checkpoint.

    Args:
        slicer: called as slicer(points (2, n, d), None), returns scores (2, n); has
            `reset_parameters()`.
        objective: called as objective(slicer, source (1, n, d), target (1, n, d), None, generator),
            returns a loss; its cost should be "sqeuclidean" where a flow is compared with OT-CFM.
        pretraining_steps: of Adam, with a cosine schedule that ends at 0.
        batch_size: points drawn from each law at a step.
        learning_rate: at step 0.
        gradient_clip: largest norm of the gradient, or None.

    Raises:
        ValueError: for settings that are not positive.
    """

    def __init__(
        self,
        slicer: nn.Module,
        objective: Any,
        pretraining_steps: int = 600,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        gradient_clip: float | None = 1.0,
    ) -> None:
        at_least(1, pretraining_steps=pretraining_steps)
        check_schedule(learning_rate, pretraining_steps)
        at_least(1, batch_size=batch_size)
        if gradient_clip is not None:
            positive(gradient_clip=gradient_clip)
        self.slicer, self.objective = slicer, objective
        self.pretraining_steps, self.batch_size = pretraining_steps, batch_size
        self.learning_rate, self.gradient_clip = learning_rate, gradient_clip
        self._begun = False

    @own_training()
    def prepare(self, data: Any, streams: Streams) -> None:
        """Trains the slicer on `data.draw_source(n, generator)` and `data.draw_target`.

        Raises:
            TypeError: for a data module that cannot draw from both laws.
            FloatingPointError: when a loss is not finite.
        """
        for name in ("draw_source", "draw_target"):
            if not callable(getattr(data, name, None)):
                raise TypeError(
                    f"data must have {name}(n, generator) for a slicer to be trained on fresh "
                    f"points of both laws, got {type(data).__name__}"
                )
        check_learns(self.slicer, "slicer")
        self.slicer.to("cpu").requires_grad_(True).train()
        self._reset(streams)
        weights = list(self.slicer.parameters())
        settings = adam_with_cosine(weights, self.learning_rate, self.pretraining_steps)
        optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
        for step in range(self.pretraining_steps):
            loss = self._loss(data, streams, step)
            stop_if_diverged(loss.detach(), step, self.pretraining_steps)
            optimizer.zero_grad()
            loss.backward()
            if self.gradient_clip is not None:
                nn.utils.clip_grad_norm_(weights, self.gradient_clip, foreach=True)
            optimizer.step()
            schedule.step()
        self.slicer.requires_grad_(False).eval()
        self._begun = True

    def _reset(self, streams: Streams) -> None:
        """Fresh weights that depend on the run's seed, not on what was built before."""
        seed = int(torch.randint(2**62, (), generator=streams.generator("slicer weights")))
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.slicer.reset_parameters()

    def _loss(self, data: Any, streams: Streams, step: int) -> Tensor:
        source = data.draw_source(self.batch_size, streams.generator("slicer source", step))
        target = data.draw_target(self.batch_size, streams.generator("slicer target", step))
        generator = streams.generator("slicer objective", step)
        clouds = source.flatten(1)[None], target.flatten(1)[None]
        return self.objective(self.slicer, *clouds, None, generator)

    @torch.no_grad()
    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`; nothing is drawn from `generator`.

        Raises:
            ValueError: also when `prepare` was not called before.
            FloatingPointError: when a score is not finite.
        """
        source, target = flat_clouds(source, target)
        if not self._begun:
            raise ValueError("the slicer is not trained yet; call prepare(data, streams) first")
        weights = next(self.slicer.parameters())
        if weights.device != source.device:
            self.slicer.to(source.device)
        with outside_autocast():
            scores = self.slicer(torch.stack((source, target)).to(weights.dtype), None)
        if not torch.isfinite(scores).all():
            raise FloatingPointError("scores of the slicer are not finite, so it diverged")
        return in_batch_order(monotone(*scores))
