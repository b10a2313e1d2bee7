"""A slicer optimised for each pair alone: what amortisation can reach at most."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.numerics import own_training, trainable
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.fitting import fit_slicer
from sextant.methods.transport.sliced.slicers import draw_weights, hard_plan
from sextant.methods.transport.sliced.training import Keep


class PerPairSlicer:
    """A student without training: `match` fits a fresh slicer to the two clouds it is asked about.

    Initial weights come from the stream "initialisation", rows and the objective's numbers from
    the stream "objective"; both are the same for every pair, so equal questions get equal answers
    in whatever order they are asked.

    Args:
        slicer: one score a point, without context; only ever copied.
        objective: see `sextant.methods.transport.sliced.objectives`.
        iterations: optimizer steps on each pair.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: most points of either cloud in a step.
        evaluate_every: steps between two evaluations of the hard plan.
        keep: which weights match, those of the cheapest plan evaluated ("best") or the "last" ones.
    """

    def __init__(
        self,
        slicer: nn.Module,
        objective: Any,
        iterations: int = 400,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        batch_size: int = 512,
        evaluate_every: int = 20,
        keep: Keep = "best",
    ) -> None:
        self.slicer, self.objective = slicer, objective
        self.settings = {
            "iterations": iterations,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "evaluate_every": evaluate_every,
            "keep": keep,
        }
        self.streams = Streams(0)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams."""
        self.streams = streams

    @own_training()
    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """The plan between source (N, d) and target (M, d), after fitting to them.

        Raises:
            ValueError: for settings out of range.
            FloatingPointError: when the fit diverges.
        """
        slicer = copy.deepcopy(self.slicer).to(source.device)
        draw_weights(slicer, self.streams.generator("initialisation"))
        weight = next(slicer.parameters())
        pair = tuple(trainable(points.detach().to(weight)) for points in (source, target))
        generator = self.streams.generator("objective")
        fit_slicer(*pair, slicer, self.objective, generator=generator, **self.settings)
        return hard_plan(slicer, *pair)
