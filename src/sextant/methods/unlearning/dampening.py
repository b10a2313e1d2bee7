"""Selective synaptic dampening (Foster et al., AAAI 2024, arXiv 2308.07707)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import evaluating, own_training
from sextant.methods.unlearning.epochs import Seconds, check_at_least, device_of, working_copy
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch


@dataclass(frozen=True, kw_only=True)
class SelectiveSynapticDampening:
    """Shrinks the weights that matter more to the forget set than to all data; no training.

    Where I_f > alpha I_D, theta becomes theta min(lambda I_D / I_f, 1). The importance I is the
    mean over batches of the squared gradient of the batch's mean loss, so it depends on the batch
    size, and alpha is tuned for one batch size; I_D is over forget set and retained data together.
    The defaults are the authors' for CIFAR-20.

    Args:
        alpha: how many times as important a weight must be to be selected, not negative.
        dampening: lambda, not negative.
        batch_size: examples in a batch; the last one may be smaller and counts as much.
    """

    alpha: float = 10.0
    dampening: float = 1.0
    batch_size: int = 64
    needs: ClassVar[Needs] = Needs(retain="all")

    def __post_init__(self) -> None:
        for name, least in (("alpha", 0), ("dampening", 0), ("batch_size", 1)):
            check_at_least(name, getattr(self, name), least)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        student, seconds = working_copy(model), Seconds()
        forget, retain = (part.to(device_of(model)) for part in (problem.forget, problem.retain))
        with seconds.part("importance"):
            # Shuffled, since data sorted by class would make batches of one class.
            forget_order = streams.generator("dampening/forget")
            of_forget = importance(student, forget, self.batch_size, forget_order)
            order = streams.generator("dampening/all")
            of_all = importance(student, forget.joined(retain), self.batch_size, order)
        with seconds.part("updates"), torch.no_grad():
            selected = 0
            for name, value in student.named_parameters():
                chosen = of_forget[name] > self.alpha * of_all[name]
                factor = (self.dampening * of_all[name] / of_forget[name]).clamp(max=1.0)
                value.copy_(torch.where(chosen, value * factor, value))
                selected += int(chosen.sum())
        student.eval()
        entry = {"epoch": 1.0} | dict({} if watch is None else watch(1, student))
        total = sum(value.numel() for value in student.parameters())
        report = {"selected_weights": selected, "weights": total, "batch_size": self.batch_size}
        return Unlearned(student.eval(), dict(seconds), report, [entry])


def importance(
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The mean over batches of the squared gradient of the mean CE, in evaluation mode.

    One backward pass over the examples. The larger the batches, the smaller the values: for a
    batch of one it is the diagonal of the empirical Fisher matrix.

    Args:
        model: its parameters' gradients are not touched.
        examples: on the model's device.
        batch_size: examples in a batch.
        generator: shuffles; None keeps the order.

    Raises:
        ValueError: for no examples.
    """
    if not len(examples):
        raise ValueError("examples must be at least one, got none")
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count = 0
    with evaluating(model):
        for inputs, labels in examples.batches(batch_size, generator):
            loss = cross_entropy(model(inputs), labels)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name].addcmul_(gradient, gradient)
            count += 1
    return {name: value / count for name, value in total.items()}
