"""Where a network looks: attention maps of its activations, for one network to take over another's.

Attention transfer of Zagoruyko and Komodakis (ICLR 2017), in the form of sums of squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Activations:
    """The last output of named modules in the forward pass before, while a `with` block lasts.

    Args:
        model: called in between, by whoever.
        layers: names of `named_modules()`.

    Raises:
        ValueError: for a name that is no module's.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.model, self.layers, self._found, self._hooks = model, list(layers), {}, []
        self._modules = dict(model.named_modules())
        for name in self.layers:
            if name not in self._modules:
                raise ValueError(f"layers must be names of the model's modules, got {name!r}")

    def __enter__(self) -> Self:
        for name in self.layers:
            self._hooks.append(self._modules[name].register_forward_hook(self._keep(name)))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def maps(self) -> list[Tensor]:
        """`attention_map` of each layer's output, (n, positions), in the order of the names.

        Raises:
            ValueError: for a layer that was not called, or whose output is not (n, C, h, w).
        """
        for name in self.layers:
            found = self._found.get(name)
            if not isinstance(found, Tensor) or found.ndim != 4:
                raise ValueError(f"layers must give outputs (n, C, h, w), {name!r} gives none")
        return [attention_map(self._found[name]) for name in self.layers]

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._found[name] = output

        return hook


def stage_ends(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the last modules, in the order of calls, to give maps (n, C, h, w) of each size.

    Maps of one position are left out, as their attention is always 1. These are the ends of a
    network's stages: its last activation, or the block that holds it, before each reduction.
    """
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
                sizes.pop(name, None)  # a module that is called again comes last
                sizes[name] = tuple(output.shape[2:])

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return list({size: name for name, size in sizes.items()}.values())


def attention_map(activations: Tensor) -> Tensor:
    """Activations (n, C, h, w) to the sum of their squares over channels, (n, h w) of norm 1."""
    return normalize(activations.square().sum(1).flatten(1))


def attention_apart(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The mean squared difference of attention maps (n, positions), summed over layers."""
    pairs = zip(first, second, strict=True)
    return torch.stack([(one - other).square().mean() for one, other in pairs]).sum()
