"""How good inverted images are: what can be known without real data, and what cannot.

`energy_capture` and `batch_norm_ratio` look at real data. They are for records; a method that is
free of retained data must not act on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sextant.methods.unlearning.inversion_terms import (
    BatchNormInputs,
    batch_norm_layers,
    statistics_distance,
)
from sextant.methods.unlearning.problem import Examples
from sextant.methods.unlearning.wrong_labels import frozen
from sextant.ranges import within


def quality(model: nn.Module, inverted: Examples, batch_size: int = 256) -> dict[str, Any]:
    """What the model says of its inverted images, without any real data.

    Args:
        model: inputs to logits (n, K); unchanged.
        inverted: images and the labels they were drawn for.
        batch_size: images at a time; the answer does not depend on it.

    Returns:
        "own_accuracy" in [0, 1] (a high one is necessary, not sufficient: images that serve badly
        can be recognised), "batch_norm_layers" and "batch_norm_distance" (None without layers).
    """
    layers = len(batch_norm_layers(model))
    moments = _Moments()
    right = 0
    device = next((parameter.device for parameter in model.parameters()), inverted.inputs.device)
    with torch.no_grad(), frozen(model), BatchNormInputs(model) as seen:
        for inputs, labels in inverted.batches(batch_size):
            found = model(inputs.to(device)).argmax(1).cpu()
            right += int((found == labels.cpu()).sum())
            moments.add(seen.taken())
    return {
        "own_accuracy": right / len(inverted),
        "batch_norm_layers": layers,
        "batch_norm_distance": moments.distance() if layers else None,
    }


def batch_norm_ratio(
    model: nn.Module, inverted: Examples, real: Examples, batch_size: int = 256
) -> float:
    """R_bn of inverted images over that of equally many real ones. Looks at real data.

    A good proxy is near 1. Sizes must agree, since smaller sets are farther from the running
    statistics whatever they show.

    Raises:
        ValueError: for sets of unequal sizes, or a model without batch normalisation.
    """
    if len(inverted) != len(real):
        raise ValueError(
            f"inverted and real must be equally many, got {len(inverted)} and {len(real)}"
        )
    ours, theirs = (
        quality(model, examples, batch_size)["batch_norm_distance"] for examples in (inverted, real)
    )
    if ours is None:
        raise ValueError("model must have batch normalisation with running statistics, has none")
    return ours / theirs


def energy_capture(
    covariances_proxy: Mapping[str, Any], covariances_real: Mapping[str, Any], share: float = 0.9
) -> dict[str, float]:
    """How much of real data's energy the proxy's leading directions hold. Looks at real data.

    With U the fewest leading eigenvectors of a layer's proxy covariance that hold `share` of its
    trace: trace(U^T C_real U) / trace(C_real), in [0, 1]. O(d^3) a layer of width d.

    Args:
        covariances_proxy: layers' covariances, by name, with a `matrix` (d, d).
        covariances_real: likewise, of the same layers.
        share: in (0, 1].

    Raises:
        ValueError: for a share out of range, or other layers.
    """
    within("(0, 1]", share=share)
    if covariances_proxy.keys() != covariances_real.keys():
        unpaired = covariances_proxy.keys() ^ covariances_real.keys()
        raise ValueError(f"both must hold the same layers, got {sorted(unpaired)} in one alone")
    captured = {}
    for name, proxy in covariances_proxy.items():
        values, vectors = torch.linalg.eigh(proxy.matrix.double())
        values, vectors = values.clamp(min=0).flip(0), vectors.flip(1)
        held = values.cumsum(0)
        # Rounding can leave the sum just short of the whole.
        count = min(int((held < share * held[-1]).sum()) + 1, len(values))
        leading = vectors[:, :count]
        real = covariances_real[name].matrix.double().to(leading)
        energy = ((real @ leading) * leading).sum() / real.trace()
        captured[name] = float(energy)
    return captured


class _Moments:
    """Means and variances of every call's inputs, streamed in float64."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[nn.Module, Tensor, Tensor, int]] = {}

    def add(self, calls: list[tuple[nn.Module, Tensor]]) -> None:
        """Joins the calls of one forward pass; the k-th calls of all passes belong together."""
        for place, (layer, inputs) in enumerate(calls):
            columns = inputs.double().transpose(0, 1).flatten(1)
            total, square, count = columns.sum(1), columns.square().sum(1), columns.shape[1]
            if place in self._sums:
                _, before, before_square, before_count = self._sums[place]
                total, square = total + before, square + before_square
                count += before_count
            self._sums[place] = layer, total, square, count

    def distance(self) -> float:
        """R_bn of everything that was added."""
        distance = 0.0
        for layer, total, square, count in self._sums.values():
            mean = total / count
            variance = (square / count - mean.square()).clamp(min=0)
            distance += float(statistics_distance(layer, mean, variance))
        return distance
