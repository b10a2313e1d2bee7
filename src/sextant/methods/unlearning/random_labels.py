"""Training towards random wrong labels, with and without the retained data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Optimizer,
    Updates,
    device_of,
    shuffled,
    working_copy,
)
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch
from sextant.methods.unlearning.wrong_labels import random_other


@dataclass(frozen=True, kw_only=True)
class RandomLabel(Updates):
    """Minimises CE on the forget set with labels uniform over the wrong classes.

    Rate and epochs are those of the UNSC notebook (arXiv 2404.13588), which redraws the labels.

    Args:
        redraw: True draws new labels for every batch, so that the network is led towards equal
            probability of all wrong classes; False draws them once, and they can be learned by
            heart.
        See `Updates` for the others.
    """

    rate: float = 1e-4
    epochs: int = 20
    redraw: bool = True
    needs: ClassVar[Needs] = Needs()

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget = problem.forget.to(device_of(model))
        once = random_other(
            forget.labels, problem.classes, streams.generator("random label/labels")
        )
        examples = forget if self.redraw else forget.relabelled(once)

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            draws = streams.generator("random label/labels", epoch)
            order = streams.generator("random label/order", epoch)
            for inputs, labels in examples.batches(self.batch_size, order):
                wrong = random_other(labels, problem.classes, draws) if self.redraw else labels
                yield inputs, wrong

        return self.run(working_copy(model), batches, label_loss, forget, watch)


@dataclass(frozen=True, kw_only=True)
class AmnesiacLabels(Updates):
    """Trains on the forget set with random wrong labels, drawn once, among the retained data.

    The form of amnesiac unlearning that needs no record of the training (Graves et al., AAAI 2021);
    optimizer, rate and epochs are those of the SSD code (arXiv 2308.07707). The true class is never
    among the labels drawn.

    Args:
        See `Updates`.
    """

    rate: float = 1e-4
    epochs: int = 3
    optimizer: Optimizer = "adam"
    batch_norm: BatchNormMode = "train"
    needs: ClassVar[Needs] = Needs(retain="all")

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget = problem.forget.to(device_of(model))
        labels = random_other(forget.labels, problem.classes, streams.generator("amnesiac/labels"))
        together = forget.relabelled(labels).joined(problem.retain.to(device_of(model)))
        batches = shuffled(together, self.batch_size, streams, "amnesiac/order")
        return self.run(working_copy(model), batches, label_loss, forget, watch)


def label_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy of a batch (inputs (n, *shape), labels (n,))."""
    return cross_entropy(model(batch[0]), batch[1])
