"""Fisher forgetting (Golatkar et al., CVPR 2020, arXiv 1911.04933): noise where it costs little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sextant.contracts import Streams
from sextant.methods.numerics import evaluating, own_training
from sextant.methods.unlearning.epochs import (
    Seconds,
    check_at_least,
    device_of,
    head_name,
    working_copy,
)
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch

SMALLEST_FISHER = 1e-8
LARGEST_VARIANCE = 1e3
LARGEST_HEAD_VARIANCE = 1e2
FORGOTTEN_ROW_VARIANCE = 1e-4
SENSITIVE_SCALE = 10.0


@dataclass(frozen=True, kw_only=True)
class FisherForgetting:
    """Adds Gaussian noise to every weight: the less the retained data need it, the more.

    With F the diagonal of the Fisher matrix on the retained data, the variance of a weight is
    alpha min(1 / (F + 1e-8), 1e3), averaged over the second axis of tensors of two axes or more (a
    kernel's input channels). In the head, the last linear layer with K outputs, the bound is 1e2;
    where a class is forgotten whole, its row has mean 0 and variance 1e-4. In the head and in all
    tensors of one axis (biases, normalisation) the variances are then ten times as large. All of
    this is what the authors' code does, except that the head is found by its place, and not by
    having K rows, which other layers may have too.

    Args:
        alpha: variance at a Fisher information of 1, not negative.
        chunk: examples whose gradients are held at a time; memory chunk x parameters x 4 bytes.
    """

    alpha: float = 1e-6
    chunk: int = 16
    needs: ClassVar[Needs] = Needs(forget=False, retain="all")

    def __post_init__(self) -> None:
        check_at_least("alpha", self.alpha, 0)
        check_at_least("chunk", self.chunk, 1)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: for a model without a linear layer of K outputs.
        """
        student, seconds = working_copy(model), Seconds()
        head = head_name(student, problem.classes)
        retain = problem.retain.to(device_of(model))
        with seconds.part("fisher"):
            fisher = fisher_diagonal(student, retain, self.chunk)
        generator, sizes = streams.generator("fisher/noise"), []
        rows = list(problem.forgotten_classes)
        with seconds.part("updates"), torch.no_grad():
            for name, value in student.named_parameters():
                in_head = name.rpartition(".")[0] == head
                variance = noise_variance(fisher[name], self.alpha, in_head)
                if in_head:
                    value[rows] = 0.0
                    variance[rows] = FORGOTTEN_ROW_VARIANCE
                if in_head or value.ndim == 1:
                    variance *= SENSITIVE_SCALE
                drawn = torch.randn(value.shape, generator=generator).to(value)
                value += variance.sqrt() * drawn
                sizes.append(variance.mean().item())
        student.eval()
        entry = {"epoch": 1.0} | dict({} if watch is None else watch(1, student))
        report = {"mean_variance": sum(sizes) / len(sizes), "head": head}
        return Unlearned(student.eval(), dict(seconds), report, [entry])


def noise_variance(fisher: Tensor, alpha: float, head: bool) -> Tensor:
    """The variance of the noise on a tensor of weights with this Fisher diagonal, of its shape.

    Without what is said of the forgotten row and the factor of ten, see `FisherForgetting`.
    """
    bound = LARGEST_HEAD_VARIANCE if head else LARGEST_VARIANCE
    variance = alpha * (1.0 / (fisher + SMALLEST_FISHER)).clamp(max=min(bound, LARGEST_VARIANCE))
    if fisher.ndim > 1:
        variance = variance.mean(1, keepdim=True).expand_as(fisher).clone()
    return variance


def fisher_diagonal(model: nn.Module, examples: Examples, chunk: int = 16) -> dict[str, Tensor]:
    """The diagonal of the Fisher matrix: mean over x of sum_y p(y|x) (d log p(y|x) / d theta)^2.

    Exact, over the model's own labels rather than the true ones, in evaluation mode. It is n K
    gradients of single examples, K passes over the examples in chunks; no shortcut through the
    gradient of a batch, whose square is another number.

    Args:
        model: inputs to logits (n, K), without layers that mix examples in evaluation mode.
        examples: on the model's device; labels are not looked at.
        chunk: examples at a time.

    Raises:
        ValueError: for no examples.
    """
    if not len(examples):
        raise ValueError("examples must be at least one, got none")
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def log_probability(weights: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, (weights, buffers), (row[None],))
        # Taken by a mask, since an index that is a traced number cannot be.
        chosen = torch.arange(logits.shape[1], device=logits.device) == label
        return (logits[0].log_softmax(0) * chosen).sum()

    gradients = vmap(grad(log_probability), in_dims=(None, 0, None))
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    with evaluating(model):
        for inputs in examples.inputs.split(chunk):
            with torch.no_grad():
                probabilities = model(inputs).softmax(1)
            for label in range(probabilities.shape[1]):
                target = torch.tensor(label, device=inputs.device)
                for name, value in gradients(parameters, inputs, target).items():
                    weight = probabilities[:, label].view(-1, *[1] * (value.ndim - 1))
                    total[name] += (weight * value.square()).sum(0)
    return {name: value / len(examples) for name, value in total.items()}
