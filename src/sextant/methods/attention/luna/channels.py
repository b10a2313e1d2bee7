"""The scalar functions psi_1..psi_L of LUNA's feature map: learned perceptrons, or fixed ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.ranges import at_least

Activation = Literal["relu", "gelu", "silu", "tanh"]
Fixed = Literal["cosine_sine", "cosine", "exponential"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class LearnedChannels(nn.Module):
    """psi: R -> R^L, a perceptron with one hidden layer, or L of them.

    Shared: one perceptron 1 -> hidden -> L. Separate: L perceptrons
    1 -> hidden -> 1, L times the time, the memory and the first layer's parameters.
    O(hidden L) time and O(hidden) memory a number (both times L where separate).

    Args:
        channels: L.
        hidden: width of the hidden layer.
        separate: one perceptron a channel.
        activation: of the hidden layer.
        output_bias: what the last biases start at; None draws them as `torch.nn.Linear` does.
        learn: False keeps the numbers drawn at the start as buffers.

    Raises:
        ValueError: for a size below 1 or an unknown activation.
    """

    first_weight: Tensor
    first_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor

    def __init__(
        self,
        channels: int,
        hidden: int = 64,
        separate: bool = False,
        activation: Activation = "relu",
        output_bias: float | None = None,
        learn: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, hidden=hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        self.channels, self.hidden, self.separate = channels, hidden, separate
        self.activation, self.output_bias = activation, output_bias
        first = (channels, hidden) if separate else (hidden,)
        hold(self, "first_weight", torch.empty(first), learn)
        hold(self, "first_bias", torch.empty(first), learn)
        hold(self, "second_weight", torch.empty(channels, hidden), learn)
        hold(self, "second_bias", torch.empty(channels), learn)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws as `torch.nn.Linear` does: uniform up to 1 / sqrt(inputs)."""
        self.first_weight.uniform_(-1, 1)
        self.first_bias.uniform_(-1, 1)
        bound = self.hidden**-0.5
        self.second_weight.uniform_(-bound, bound)
        self.second_bias.uniform_(-bound, bound)
        if self.output_bias is not None:
            self.second_bias.fill_(self.output_bias)

    def forward(self, arguments: Tensor) -> Tensor:
        """(...) to (..., L), in the dtype of the arguments."""
        first_weight, first_bias, second_weight, second_bias = (
            tensor.to(arguments.dtype) for tensor in self.layers()
        )
        activate = ACTIVATIONS[self.activation]
        if self.separate:
            hidden = activate(arguments[..., None, None] * first_weight + first_bias)
            return (hidden * second_weight).sum(-1) + second_bias
        hidden = activate(arguments[..., None] * first_weight + first_bias)
        return functional.linear(hidden, second_weight, second_bias)

    def layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First weight and bias, (hidden,) or (L, hidden); second (L, hidden) and (L,)."""
        return self.first_weight, self.first_bias, self.second_weight, self.second_bias

    @torch.no_grad()
    def lipschitz_bound(self) -> float:
        """A bound of |psi(u) - psi(v)| / |u - v|: the product of both layers' spectral norms.

        For activations whose slope is at most 1 (GELU and SiLU exceed it by up to
        13 %, which the bound includes). Where separate, the root of the sum of squared bounds.
        """
        slope = {"gelu": 1.13, "silu": 1.1}.get(self.activation, 1.0)
        if self.separate:
            squares = self.first_weight.square().sum(1) * self.second_weight.square().sum(1)
            return slope * squares.sum().sqrt().item()
        outer = torch.linalg.matrix_norm(self.second_weight.float(), 2).item()
        return slope * self.first_weight.norm().item() * outer


class FixedChannels(nn.Module):
    """Scalar functions without parameters that make known random features of the template.

    `cosine_sine` is (cos u, sin u), random Fourier features; `cosine` is
    sqrt(2) cos u, the same with a random phase as bias; `exponential` is exp u, positive features.

    Args:
        function: one of the three.

    Raises:
        ValueError: for another function.
    """

    def __init__(self, function: Fixed) -> None:
        super().__init__()
        if function not in ("cosine_sine", "cosine", "exponential"):
            raise ValueError(
                f"function must be 'cosine_sine', 'cosine' or 'exponential', got {function!r}"
            )
        self.function = function
        self.channels = 2 if function == "cosine_sine" else 1

    def forward(self, arguments: Tensor) -> Tensor:
        """(...) to (..., L)."""
        if self.function == "cosine_sine":
            return torch.stack((arguments.cos(), arguments.sin()), -1)
        if self.function == "cosine":
            return math.sqrt(2) * arguments.cos()[..., None]
        return arguments.exp()[..., None]


def hold(module: nn.Module, name: str, tensor: Tensor, learn: bool) -> None:
    """Registers a tensor as a parameter, or as a buffer where it is not learnt."""
    if learn:
        module.register_parameter(name, nn.Parameter(tensor))
    else:
        module.register_buffer(name, tensor)
