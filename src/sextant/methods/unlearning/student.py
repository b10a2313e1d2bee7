"""An unlearning method as a student: what it starts from, what it is handed, what it answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.unlearning.sight import Examples, Method, PixelSpace, Sight, Unlearned

CHUNK = 500
"""Inputs answered at a time."""


class UnlearningStudent(nn.Module):
    """Unlearns before its exam, with nothing but what its method declares.

    The model is the `network` of the parent "original". The data module offers `classes`,
    `forgotten_classes`, `channels`, `mean`, `deviation` and `examples(part)` for the parts
    "retained" and "forgotten"; a method that declares a subset of the retained examples is handed
    the first `subset_each` of every class. After each epoch the data module's `watch(model)` may
    look at the model, for curves; its numbers reach no method.

    Args:
        method: what unlearns.
        subset_each: retained examples of every class for methods that declare a subset.

    Raises:
        ValueError: for a subset of no examples.
    """

    def __init__(self, method: Method, subset_each: int = 100) -> None:
        super().__init__()
        if subset_each < 1:
            raise ValueError(f"subset_each must be at least 1, got {subset_each}")
        self.method, self.subset_each = method, subset_each
        self.model: nn.Module = nn.Identity()
        self.fresh: nn.Module = nn.Identity()
        self.unlearned: Unlearned | None = None

    def begin(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Unlearns."""
        original = parents["original"].load().network
        sight = Sight.of(
            self.method.needs,
            classes=data.classes,
            forget=lambda: Examples(*data.examples("forgotten")),
            retain=lambda: Examples(*data.examples("retained")),
            subset=lambda: first_of_each(Examples(*data.examples("retained")), self.subset_each),
            fresh=lambda: redrawn(original),
            forgotten_classes=data.forgotten_classes,
            space=PixelSpace((data.mean,) * data.channels, (data.deviation,) * data.channels),
        )
        watch = getattr(data, "watch", None)
        look = None if watch is None else lambda epoch, model: watch(model)
        self.unlearned = self.method(original, sight, streams, look)
        self.model = self.unlearned.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.generator("a model that learned nothing").initial_seed())
            self.fresh = redrawn(original)

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to class scores (n, classes), in evaluation mode."""
        return _answers(self.model, inputs)

    def fresh_logits(self, inputs: Tensor) -> Tensor:
        """The same of a model of that kind with random weights."""
        return _answers(self.fresh, inputs)


def first_of_each(examples: Examples, count: int) -> Examples:
    """The first `count` examples of every class, in their order."""
    rows = [(examples.labels == label).nonzero()[:count, 0] for label in examples.labels.unique()]
    chosen = torch.cat(rows).sort().values
    return Examples(examples.inputs[chosen], examples.labels[chosen])


def redrawn(model: nn.Module) -> nn.Module:
    """A copy with parameters drawn anew from torch's global generator and statistics cleared.

    A module with `reset_parameters` draws all that is inside it, any other leaves it to its parts.

    Raises:
        ValueError: for a module with parameters of its own that cannot draw them.
    """
    fresh = copy.deepcopy(model)
    _redraw(fresh, "model")
    return fresh


def _redraw(module: nn.Module, name: str) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    if any(True for _ in module.parameters(recurse=False)):
        raise ValueError(f"{name} has parameters and no reset_parameters")
    for part, child in module.named_children():
        _redraw(child, f"{name}.{part}")


@torch.no_grad()
def _answers(model: nn.Module, inputs: Tensor) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(rows.to(device)).to(inputs.device) for rows in inputs.split(CHUNK)])
