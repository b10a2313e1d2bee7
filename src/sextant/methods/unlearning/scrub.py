"""SCRUB (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880): a student that disobeys its teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    Optimizer,
    Updates,
    check_at_least,
    device_of,
    frozen_copy,
    stop_examples,
    working_copy,
)
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch
from sextant.ranges import positive

Batch = tuple[Literal["forget", "retain"], Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Scrub(Updates):
    """Drives a copy away from the trained model on the forget set and holds it on the rest.

    In each of the first `ascents` epochs all batches of the forget set come first and maximise
    KL(teacher || student); then, in every epoch, all batches of the retained data minimise
    gamma CE + alpha KL(teacher || student). The teacher is the given model in evaluation mode,
    and KL is that of softmax(logits / T), times T^2. One optimizer takes both kinds of steps. The
    defaults are those of the authors' code for small problems.

    Args:
        ascents: epochs that begin with ascent.
        gamma: weight of the cross-entropy, not negative.
        alpha: weight of the divergence, not negative.
        temperature: T, positive.
        forget_batch_size: examples of the forget set in a batch.
        See `Updates` for the others; `batch_size` is that of the retained data.
    """

    rate: float = 5e-4
    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.1
    drops: tuple[int, ...] = (5, 8, 9)
    ascents: int = 3
    gamma: float = 1.0
    alpha: float = 0.5
    temperature: float = 2.0
    forget_batch_size: int = 512
    needs: ClassVar[Needs] = Needs(retain="all")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ascents", "gamma", "alpha"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("forget_batch_size", self.forget_batch_size, 1)
        positive(temperature=self.temperature)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget, retain = (part.to(device_of(model)) for part in (problem.forget, problem.retain))
        teacher = frozen_copy(model)

        def batches(epoch: int) -> Iterator[Batch]:
            if epoch <= self.ascents:
                order = streams.generator("scrub/forget", epoch)
                for inputs, labels in forget.batches(self.forget_batch_size, order):
                    yield "forget", inputs, labels
            order = streams.generator("scrub/retain", epoch)
            for inputs, labels in retain.batches(self.batch_size, order):
                yield "retain", inputs, labels

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            kind, inputs, labels = batch
            with torch.no_grad():
                taught = teacher(inputs)
            logits = student(inputs)
            apart = distillation(taught, logits, self.temperature)
            if kind == "forget":
                return -apart
            return self.gamma * cross_entropy(logits, labels) + self.alpha * apart

        examples = stop_examples(self, problem, model)
        return self.run(working_copy(model), batches, loss, examples, watch)


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over rows of logits (n, K)."""
    target, found = ((logits / temperature).log_softmax(1) for logits in (teacher, student))
    return temperature**2 * kl_div(found, target, reduction="batchmean", log_target=True)
