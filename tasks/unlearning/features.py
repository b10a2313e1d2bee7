"""What a network sees before its last layer, for pictures of how classes lie beside each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAST = (nn.Linear, nn.Conv2d)


@torch.no_grad()
def last_features(model: nn.Module, inputs: Tensor, chunk: int = 500) -> Tensor:
    """The inputs of the last linear or convolution layer, averaged over places, float32 (n, D).

    The last layer is the one that is called last; the model is left in the mode it was in.

    Args:
        model: a classifier; asked in evaluation mode.
        inputs: (n, *shape).
        chunk: inputs answered at a time.

    Raises:
        ValueError: for a model without such a layer.
    """
    seen: list[Tensor] = []

    def remember(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[:] = given[:1]

    hooks = [
        module.register_forward_pre_hook(remember)
        for module in model.modules()
        if isinstance(module, LAST)
    ]
    if not hooks:
        raise ValueError("the model has no linear or convolution layer to take features from")
    training = model.training
    model.eval()
    try:
        found = []
        for rows in inputs.split(chunk):
            model(rows)
            found.append(_pooled(seen[0]).float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return torch.cat(found)


def _pooled(values: Tensor) -> Tensor:
    """(n, D, places...) or (n, tokens, D) or (n, D), averaged to (n, D)."""
    if values.ndim == 4:
        return values.mean((2, 3))
    return values.mean(1) if values.ndim == 3 else values
