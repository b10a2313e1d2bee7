"""Learning from the retained data alone: from fresh weights, or from the trained ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Decay,
    Updates,
    device_of,
    shuffled,
    stop_examples,
    working_copy,
)
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch


@dataclass(frozen=True, kw_only=True)
class Retrain(Updates):
    """Trains a freshly initialised model on the retained data: what unlearning is measured by.

    The defaults are the recipe of the Boundary Unlearning code (Chen et al., CVPR 2023) on
    CIFAR-10; a comparison is fair where they are the recipe of the original model. The given model
    is only asked for its device.

    Args:
        See `Updates`.
    """

    rate: float = 0.01
    epochs: int = 50

    @property
    def needs(self) -> Needs:
        """All retained data and a fresh model; the forget set only to stop by it."""
        return Needs(forget=self.stop_at is not None, retain="all", fresh=True)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        fresh = problem.fresh(streams.generator("retrain/weights")).to(device_of(model))
        return _learn(self, fresh, problem, streams, "retrain/order", watch)


@dataclass(frozen=True, kw_only=True)
class Finetune(Updates):
    """Goes on training on the retained data and hopes to forget the rest.

    The defaults are those of the NeurIPS 2023 unlearning challenge's starting kit.

    Args:
        See `Updates`.
    """

    rate: float = 0.1
    epochs: int = 5
    weight_decay: float = 5e-4
    decay: Decay = "cosine"
    batch_norm: BatchNormMode = "train"

    @property
    def needs(self) -> Needs:
        """All retained data; the forget set only to stop by it."""
        return Needs(forget=self.stop_at is not None, retain="all")

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        return _learn(self, working_copy(model), problem, streams, "finetune/order", watch)


def _learn(
    updates: Updates,
    model: nn.Module,
    problem: Problem,
    streams: Streams,
    purpose: str,
    watch: Watch | None,
) -> Unlearned:
    retain = problem.retain.to(device_of(model))
    return updates.run(
        model,
        shuffled(retain, updates.batch_size, streams, purpose),
        lambda network, batch: cross_entropy(network(batch[0]), batch[1]),
        stop_examples(updates, problem, model),
        watch,
    )
