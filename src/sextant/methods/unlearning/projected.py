"""Optimizer steps that leave what a network does on protected data as it is.

If the projector of every layer that moves is zero on that layer's protected inputs and nothing else
moves, the first layer's outputs stay, so do the second layer's inputs, and so on to the end: the
guarantee holds for any number of steps, with the projectors of the first weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from sextant.methods.unlearning.projectors import (
    Projector,
    gradient_matrix,
    set_gradient_matrix,
    set_weight_matrix,
    weight_matrix,
)

Place = Literal["update", "gradient"]


class ProjectedStep:
    """Steps of an optimizer, projected layer by layer; all other parameters are frozen meanwhile.

    From when it is made until `restore` (or the end of a `with` block) only the weights of layers
    with a projector require gradients, and the biases of linear layers whose projector has a row
    for it. Biases of convolutions, norms, embeddings, bare parameters (`in_proj_weight` of
    `nn.MultiheadAttention`) and layers without a projector are frozen. Running statistics of
    batch norms are no parameters: keep the model in eval mode, or they move.

    A step costs one `Projector.apply` a layer and, under "update", a copy of the weights.

    Args:
        model: its parameters are changed in place.
        projectors: by names of `named_modules()`; of width in * kernel area for a convolution, in
            or in + 1 (with the bias) for a linear layer. Each is kept in its weight's dtype.
        optimizer: holds at least the parameters that may move.
        place: "update" projects what the optimizer did to the weights, which is right for every
            optimizer (Wang et al., CVPR 2021). "gradient" projects gradients before its step (Saha
            et al., ICLR 2021), which is right where the step is a linear combination of gradients:
            for SGD with or without momentum, but without weight decay, and not for Adam.

    Attributes:
        moving: names of the parameters that may move.
        frozen: names of all others.

    Raises:
        ValueError: for an unknown place or layer, a projector of another width, no projector, or
            an optimizer without one of the parameters that may move.
        TypeError: for a layer that is no Conv2d or Linear.
    """

    def __init__(
        self,
        model: nn.Module,
        projectors: Mapping[str, Projector],
        optimizer: torch.optim.Optimizer,
        place: Place = "update",
    ) -> None:
        if place not in ("update", "gradient"):
            raise ValueError(f"place must be 'update' or 'gradient', got {place!r}")
        self.optimizer, self.place = optimizer, place
        modules = dict(model.named_modules())
        self._layers = [_layer(modules, name, one) for name, one in projectors.items()]
        allowed = {id(p) for layer in self._layers for p in layer.parameters}
        named = list(model.named_parameters())
        self.moving = [name for name, parameter in named if id(parameter) in allowed]
        self.frozen = [name for name, parameter in named if id(parameter) not in allowed]
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name, p in named if id(p) in allowed and id(p) not in held]
        if not self.moving:
            raise ValueError("projectors must hold at least one layer's, got none")
        if missing:
            raise ValueError(f"optimizer must hold {missing[0]!r}, which may move, and does not")
        self._required = [(parameter, parameter.requires_grad) for _, parameter in named]
        for parameter, _ in self._required:
            parameter.requires_grad_(id(parameter) in allowed)
            if id(parameter) not in allowed:
                parameter.grad = None  # optimizers pass over parameters without a gradient

    @torch.no_grad()
    def step(self) -> None:
        """One step of the optimizer, projected; gradients are there, as for `optimizer.step`.

        Raises:
            RuntimeError: after `restore`.
        """
        if not self._required:
            raise RuntimeError("step must come before restore, which unfroze the model")
        if self.place == "gradient":
            for layer in self._layers:
                layer.project_gradient()
            self.optimizer.step()
            return
        for layer in self._layers:
            layer.remember()
        self.optimizer.step()
        for layer in self._layers:
            layer.project_update()

    def restore(self) -> None:
        """Gives every parameter the `requires_grad` it had; the second call does nothing."""
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        self._required = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()


class _ProjectedLayer:
    """One layer, its projector and the weights it had before a step."""

    def __init__(self, layer: nn.Module, projector: Projector, bias: bool) -> None:
        self.layer, self.bias = layer, bias
        self.projector = projector.to(layer.weight.detach())
        self.parameters = [layer.weight, *([layer.bias] if bias else [])]
        self._before: Tensor | None = None

    def remember(self) -> None:
        now = weight_matrix(self.layer, self.bias)
        if self._before is None:
            self._before = now.clone()
        else:
            self._before.copy_(now)

    def project_update(self) -> None:
        update = weight_matrix(self.layer, self.bias) - self._before
        self._before += self.projector.apply(update)
        set_weight_matrix(self.layer, self._before, self.bias)

    def project_gradient(self) -> None:
        gradient = gradient_matrix(self.layer, self.bias)
        if gradient is not None:
            set_gradient_matrix(self.layer, self.projector.apply(gradient), self.bias)


def _layer(modules: Mapping[str, nn.Module], name: str, projector: Projector) -> _ProjectedLayer:
    if name not in modules:
        raise ValueError(f"projectors must be named as the model's modules, got {name!r}")
    width = weight_matrix(modules[name], bias=False).shape[1]
    wide = weight_matrix(modules[name]).shape[1]
    if projector.dimension not in (width, wide):
        widths = f"{width}" if width == wide else f"{width} or {wide}"
        raise ValueError(
            f"projector of {name!r} must have dimension {widths}, got {projector.dimension}"
        )
    return _ProjectedLayer(modules[name], projector, bias=projector.dimension > width)
