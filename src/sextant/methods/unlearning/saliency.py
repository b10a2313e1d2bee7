"""SalUn (Fan et al., ICLR 2024, arXiv 2310.12508): random labels for the salient weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import evaluating, own_training
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Seconds,
    Updates,
    device_of,
    working_copy,
)
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch
from sextant.methods.unlearning.random_labels import label_loss
from sextant.methods.unlearning.wrong_labels import random_other
from sextant.ranges import within


@dataclass(frozen=True, kw_only=True)
class SalUn(Updates):
    """Trains towards random labels, moving only the weights the forget set asks most to move.

    Everything outside the mask stays bit for bit as it was, weight decay and momentum included,
    and so do the running statistics with `batch_norm="eval"`. Rate and epochs are those of the
    authors' code for a random tenth of CIFAR-10, as is the forget set standing among the retained
    data; labels are drawn once, and never the true one.

    Args:
        share: of all weights together that may move, in (0, 1]: those with the largest gradient.
        retained: True trains on the retained data as well (random labelling as in SalUn), False on
            the forget set alone.
        See `Updates` for the others.
    """

    rate: float = 0.013
    epochs: int = 10
    batch_size: int = 256
    weight_decay: float = 5e-4
    batch_norm: BatchNormMode = "train"
    share: float = 0.5
    retained: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        within("(0, 1]", share=self.share)

    @property
    def needs(self) -> Needs:
        """The forget set, and all retained data with `retained`."""
        return Needs(retain="all" if self.retained else "none")

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget, seconds = problem.forget.to(device_of(model)), Seconds()
        student = working_copy(model)
        with seconds.part("mask"):
            masks = salient(gradient_sizes(student, forget, self.batch_size), self.share)
        original = {name: value.detach().clone() for name, value in student.named_parameters()}
        labels = random_other(forget.labels, problem.classes, streams.generator("salun/labels"))
        examples = forget.relabelled(labels)
        if self.retained:
            examples = examples.joined(problem.retain.to(device_of(model)))

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            return examples.batches(self.batch_size, streams.generator("salun/order", epoch))

        @torch.no_grad()
        def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(masks[name])
            optimizer.step()
            # Weight decay joins inside the optimizer, so weights and its averages are masked too.
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.where(masks[name], parameter, original[name]))
                for state in optimizer.state.get(parameter, {}).values():
                    if isinstance(state, Tensor) and state.shape == parameter.shape:
                        state.mul_(masks[name])

        found = self.run(student, batches, label_loss, forget, watch, step, seconds)
        moving = sum(int(mask.sum()) for mask in masks.values())
        total = sum(mask.numel() for mask in masks.values())
        report: dict[str, Any] = {"moving_weights": moving, "weights": total}
        found.report.update(report)
        return found


def gradient_sizes(model: nn.Module, examples: Examples, batch_size: int) -> dict[str, Tensor]:
    """|sum over examples of the gradient of CE| for each parameter, in evaluation mode.

    A sum, so the batch size changes it only by rounding. One backward pass over the examples.
    """
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    with evaluating(model):
        for inputs, labels in examples.batches(batch_size):
            loss = cross_entropy(model(inputs), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
    return {name: value.abs() for name, value in total.items()}


def salient(sizes: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the round(share x all) largest entries of all tensors together, at least one."""
    everything = torch.cat([value.flatten() for value in sizes.values()])
    kept = max(1, round(share * len(everything)))
    mask = torch.zeros_like(everything, dtype=torch.bool)
    mask[everything.topk(kept).indices] = True
    parts = mask.split([value.numel() for value in sizes.values()])
    return {
        name: part.view_as(value) for (name, value), part in zip(sizes.items(), parts, strict=True)
    }
