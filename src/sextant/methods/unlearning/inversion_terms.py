"""The terms of an inversion's loss that look at statistics and pixels (Yin et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm


def batch_norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The batch normalisations that kept running statistics, frozen ones included, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "running_var", None), Tensor)
        and not isinstance(module, _InstanceNorm)
    }


class BatchNormInputs:
    """A context that collects what comes into every batch normalisation, with its graph.

    A module that is called twice in a forward pass stands there twice. The hooks are removed at the
    end of the context, also after an error.

    Args:
        model: its layers of `batch_norm_layers`, or None to collect nothing.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.layers = [] if model is None else list(batch_norm_layers(model).values())
        self._calls: list[tuple[nn.Module, Tensor]] = []

    def __enter__(self) -> BatchNormInputs:
        self._hooks = [layer.register_forward_pre_hook(self._take) for layer in self.layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def taken(self) -> list[tuple[nn.Module, Tensor]]:
        """The calls since the last look, in order: a layer and its input (n, C, ...)."""
        calls, self._calls = self._calls, []
        return calls

    def _take(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._calls.append((layer, arguments[0]))


def batch_norm_term(calls: Sequence[tuple[nn.Module, Tensor]]) -> Tensor:
    """R_bn (0-d): the distances of a batch's statistics from the running ones, added over calls.

    ||mean - running mean||_2 + ||variance - running variance||_2 over channels, with mean and
    variance over all axes but the channels' and the variance divided by their number, as the layer
    itself normalises. 0 without calls.

    Args:
        calls: layers and their inputs (n, C, ...), see `BatchNormInputs`.
    """
    total = torch.zeros(())
    for layer, inputs in calls:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs, axes, correction=0)
        total = total.to(mean) + statistics_distance(layer, mean, variance)
    return total


def statistics_distance(layer: nn.Module, mean: Tensor, variance: Tensor) -> Tensor:
    """One layer's share of R_bn (0-d) for the mean and variance (C,) of its inputs."""
    norm = torch.linalg.vector_norm
    return norm(mean - layer.running_mean.to(mean)) + norm(variance - layer.running_var.to(mean))


def total_variation(images: Tensor) -> Tensor:
    """R_tv (0-d) of images (n, C, H, W): mean |difference| between columns plus between rows."""
    total = images.new_zeros(())
    for axis in (2, 3):
        if images.shape[axis] > 1:
            total = total + images.diff(dim=axis).abs().mean()
    return total


def pixel_norm(images: Tensor) -> Tensor:
    """R_l2 (0-d) of images (n, C, H, W): the mean over pixels of the norm over channels."""
    return torch.linalg.vector_norm(images, dim=1).mean()
