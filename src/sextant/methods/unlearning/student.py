"""An unlearning method as a student: what it starts from, what it is handed, what it answers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.unlearning.covariance import feature_covariances
from sextant.methods.unlearning.inversion_terms import batch_norm_layers
from sextant.methods.unlearning.inverting import drawn_before, pixel_space
from sextant.methods.unlearning.problem import Examples, Method, Problem, Unlearned
from sextant.methods.unlearning.proxy_quality import batch_norm_ratio, energy_capture
from sextant.ranges import at_least

CHUNK = 500
"""Inputs answered at a time."""


class UnlearningStudent(nn.Module):
    """Unlearns before its exam, with nothing but what its method declares.

    The model is the `network` of the parent that `start` names. The data module offers `classes`,
    `forgotten_classes`, `channels`, `mean`, `deviation` and `examples(part)` for the parts
    "retained" and "forgotten"; a method that declares a subset of the retained examples is handed
    the first `subset_each` of every class. After each epoch the data module's `watch(model)` may
    look at the model, for curves; its numbers reach no method.

    A method that inverts the model takes the images from the parent `images_from`, an
    `InversionStudent`, and the time they took joins its own as "inversion".

    Args:
        method: what unlearns.
        subset_each: retained examples of every class for methods that declare a subset.
            None hands over all.
        start: the parent to start from.
        images_from: the parent with inverted images; where there is none, or with None, a method
            draws its own.

    Raises:
        ValueError: for a subset of no examples.
    """

    def __init__(
        self,
        method: Method,
        subset_each: int | None = 100,
        start: str = "original",
        images_from: str | None = "inverted",
    ) -> None:
        super().__init__()
        if subset_each is not None:
            at_least(1, subset_each=subset_each)
        self.method, self.subset_each = method, subset_each
        self.start, self.images_from = start, images_from
        self.model: nn.Module = nn.Identity()
        self.fresh: nn.Module = nn.Identity()
        self.unlearned: Unlearned | None = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Unlearns."""
        original = parents[self.start].load().network
        method, spent = self._with_images(parents)
        problem = Problem.of(
            method.needs,
            classes=data.classes,
            forget=lambda: Examples(*data.examples("forgotten")),
            retain=lambda: Examples(*data.examples("retained")),
            subset=lambda: first_of_each(Examples(*data.examples("retained")), self.subset_each),
            fresh=lambda: redrawn(original),
            forgotten_classes=data.forgotten_classes,
            space=pixel_space(data),
        )
        watch = getattr(data, "watch", None)
        look = None if watch is None else lambda epoch, model: watch(model)
        self.unlearned = method(original, problem, streams, look)
        self.unlearned.seconds = {**self.unlearned.seconds, **spent}
        self.model = self.unlearned.model
        # In a list, so that it is no part of what is saved.
        self._original = [original]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.generator("a model that learned nothing").initial_seed())
            self.fresh = redrawn(original)

    def _with_images(self, parents: Mapping[str, Parent]) -> tuple[Method, dict[str, float]]:
        """The method, with the images of an earlier run where there are any, and their seconds."""
        inverts = getattr(self.method, "proxy", None) == "inverted"
        if not inverts or self.images_from not in parents:
            return self.method, {}
        earlier = parents[self.images_from].load()
        method = dataclasses.replace(self.method, inversion=drawn_before(earlier))
        return method, {"inversion": earlier.seconds}

    def proxy_quality(self, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """How alike the protected images are to real ones; nothing where none were protected.

        Compared with equally many of the given real examples, evenly spread: "energy_capture", the
        mean over layers, and "batch_norm_ratio" where the model has batch normalisation; see
        `proxy_quality`.
        """
        proxy = getattr(self.unlearned, "proxy", None)
        if proxy is None:
            return {}
        count = min(len(proxy), len(labels))
        rows, some = (torch.arange(count) * n // count for n in (len(labels), len(proxy)))
        real = Examples(inputs[rows], labels[rows])
        proxy = Examples(proxy.inputs[some], proxy.labels[some])
        network = self._original[0]
        ours, theirs = (
            feature_covariances(network, (batch for batch, _ in part.batches(CHUNK)))
            for part in (proxy, real)
        )
        found = {"energy_capture": fmean(energy_capture(ours, theirs).values())}
        if batch_norm_layers(network):
            found["batch_norm_ratio"] = batch_norm_ratio(network, proxy, real)
        return found

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to class scores (n, classes), in evaluation mode."""
        return _answers(self.model, inputs)

    def fresh_logits(self, inputs: Tensor) -> Tensor:
        """The same of a model of that kind with random weights."""
        return _answers(self.fresh, inputs)


def first_of_each(examples: Examples, count: int | None) -> Examples:
    """The first `count` examples of every class, in their order; None takes all."""
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
