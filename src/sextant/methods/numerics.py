"""What the maths is computed in, whatever the caller's context: precision, autocast, gradients,
modes, and the scale of the numbers.

A function of numbers gives the same numbers inside `torch.autocast`, and in half precision it gives
those of the half-precision points, computed in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
"""Formats whose sums and squares are of no use: float16 ends at 65504, bfloat16 has 8 bits."""

AUTOCAST_DEVICES = ("cpu", "cuda")

ORDINARY = {torch.float32: 40, torch.float64: 400}
"""Clouds of an extent between 2^-k and 2^k have squares, and sums of them, in a dtype's range."""


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is float16 or bfloat16, else itself."""
    return tensor.float() if tensor.dtype in HALF else tensor


def check_floating(value: object, name: str) -> None:
    """Raises a TypeError for anything but a tensor of floating-point numbers."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor of floating-point numbers, got {found}")


def check_not_half(module: object, name: str) -> None:
    """Raises a TypeError for a network whose weights are in half precision; other callables pass.

    Training in half precision loses small steps; `torch.autocast` keeps the weights in float32.
    """
    weight = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    if weight is not None and weight.dtype in HALF:
        raise TypeError(
            f"{name} must have weights in float32 or float64, got {weight.dtype}; for speed use "
            "torch.autocast, which keeps them so"
        )


def check_learns(module: nn.Module, name: str) -> None:
    """Raises a TypeError for a network that cannot be trained in place.

    Such are networks in half precision, and those made inside `torch.inference_mode`.
    """
    check_not_half(module, name)
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise TypeError(f"{name} must be made outside of torch.inference_mode to be trained")


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Switches the caller's autocast off, on every device; also a decorator."""
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def own_training() -> Iterator[None]:
    """Gradients on, inference mode and autocast off: where we train, whoever calls; a decorator.

    Tensors that the caller made in inference mode are to be taken in through `trainable`.
    """
    with torch.inference_mode(False), torch.enable_grad(), outside_autocast():
        yield


@contextmanager
def drawn_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Lets torch's global generators, of the CPU and of a device, begin at a generator's seed.

    Dropout and `reset_parameters` draw from them. Afterwards they are as they were.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield


def trainable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that gradients may look at where it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def trainable_module(module: nn.Module) -> nn.Module:
    """The module, or a copy that can be trained where it was made in inference mode."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module) if any(one.is_inference() for one in tensors) else module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Puts a model in evaluation mode; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


def unit(*tensors: Tensor, dtype: torch.dtype) -> float:
    """A power of two to divide tensors by, so that their squares are numbers of a dtype.

    1.0, and so no change of a bit, wherever they are so already, or all are 0.

    Args:
        tensors: finite, not empty.
        dtype: that squares are computed in, float32 or float64.
    """
    extent = max(float(tensor.detach().abs().max()) for tensor in tensors)
    if not 0 < extent < math.inf:
        return 1.0
    exponent = math.frexp(extent)[1]
    return 1.0 if abs(exponent) <= ORDINARY[dtype] else 2.0 ** min(exponent, 1023)


def divided(tensor: Tensor, by: float) -> Tensor:
    """The tensor divided by a `unit`; itself where that is 1."""
    return tensor if by == 1.0 else (tensor.double() / by).to(tensor.dtype)
