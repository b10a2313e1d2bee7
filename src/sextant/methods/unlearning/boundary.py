"""Boundary Unlearning (Chen et al., CVPR 2023): moves the forgotten class's decision boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    Seconds,
    Updates,
    device_of,
    head_name,
    shuffled,
    working_copy,
)
from sextant.methods.unlearning.problem import (
    Needs,
    Problem,
    Unlearned,
    Watch,
)
from sextant.methods.unlearning.random_labels import label_loss
from sextant.methods.unlearning.wrong_labels import fgsm_nearest
from sextant.ranges import within


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(Updates):
    """Trains the forget set towards the class across the nearest decision boundary.

    That class is found once, by the trained model in evaluation mode: what it sees after a single
    fast gradient sign step in pixel space. Where the step stays in the true class, which would
    teach what is to be forgotten, the second best class is taken. The defaults are those of the
    authors' code.

    Args:
        epsilon: the step, in pixels of [0, 1].
        See `Updates` for the others.
    """

    rate: float = 1e-5
    epochs: int = 10
    epsilon: float = 0.1
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        super().__post_init__()
        within("(0, 1]", epsilon=self.epsilon)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: for a problem without a pixel space.
        """
        if problem.space is None:
            raise ValueError("space must be given, since the step is one in pixels, got None")
        forget, seconds = problem.forget.to(device_of(model)), Seconds()
        student = working_copy(model)
        with seconds.part("labels"):
            labels = fgsm_nearest(
                student, forget.inputs, forget.labels, problem.space, epsilon=self.epsilon
            )
        batches = shuffled(
            forget.relabelled(labels), self.batch_size, streams, "boundary shrink/order"
        )
        return self.run(student, batches, label_loss, forget, watch, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(Updates):
    """Gives the forget set a class of its own, trains it in, and drops that class.

    In training a row drawn by Xavier's uniform rule stands beside the last linear layer with K
    outputs. The model handed back has the K outputs alone, and so has the one that `stop_at` and
    `watch` look at. The defaults are those of the authors' code.

    Args:
        See `Updates`.
    """

    rate: float = 1e-5
    epochs: int = 10
    needs: ClassVar[Needs] = Needs()

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: for a model without a linear layer of K outputs.
        """
        forget, student = problem.forget.to(device_of(model)), working_copy(model)
        head = student.get_submodule(head_name(student, problem.classes))
        extra = extra_row(head, streams.generator("boundary expand/row"))

        def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            # The row is there while training looks, so the network itself always has K logits.
            hook = head.register_forward_hook(
                lambda _, arguments, logits: torch.cat((logits, extra(arguments[0])), -1)
            )
            with hook:
                return label_loss(network, batch)

        own_class = forget.relabelled(torch.full_like(forget.labels, problem.classes))
        batches = shuffled(own_class, self.batch_size, streams, "boundary expand/order")
        return self.run(student, batches, loss, forget, watch, besides=extra.parameters())


def extra_row(head: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """A layer with one output, to stand beside the K outputs of a linear layer.

    Its weights are uniform within sqrt(6 / (in + K + 1)), the bound of Glorot & Bengio (2010) for a
    layer of K + 1 outputs; its bias, where the layer has one, is 0.
    """
    row = nn.utils.skip_init(
        nn.Linear,
        head.in_features,
        1,
        head.bias is not None,
        device=head.weight.device,
        dtype=head.weight.dtype,
    )
    bound = math.sqrt(6.0 / (head.in_features + head.out_features + 1))
    drawn = torch.rand(1, head.in_features, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        row.weight.copy_((2 * drawn - 1) * bound)
        if row.bias is not None:
            row.bias.zero_()
    return row
