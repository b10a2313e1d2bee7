"""One call that exchanges the attention of a trained model."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from sextant.methods.attention.base import Attention
from sextant.methods.conversion import maps
from sextant.methods.conversion.substitute import CausalAttention, ConvertedAttention


def convert(
    model: nn.Module,
    attention: str | Attention = "luna",
    *,
    softmax_class_token: bool = False,
    convolution: int = 0,
    in_place: bool = False,
    **settings: Any,
) -> nn.Module:
    """A trained model with another attention between its own projections.

    Every weight of the model, queries', keys', values' and output projections among them, stays as
    it is bit for bit; each layer gets a new map of its own, drawn from torch's global generator,
    in float32 (float64 in a float64 model). Models of transformers whose attention comes from its
    registry are converted through it, those of timm by replacing its `Attention` modules.

    Padding is honoured; a mask that is more than padding, a bias or a window is refused when it
    comes. Dropout of attention weights is gone: there are no weights to drop, and a warning says so
    where the model had any. A decoder of transformers becomes a recurrent one (attention="luna"
    only); see `StreamingCache`.

    Args:
        model: a `PreTrainedModel` or a timm vision transformer.
        attention: softmax, luna, hedgehog, t2r, performer, cosformer or linear_transformer; or an
            `Attention`, which is copied and drawn anew for each layer.
        softmax_class_token: for timm: class, distillation and register tokens keep on asking
            by softmax.
        convolution: for timm: side of a depthwise convolution of the values over the patches, added
            to what the patches get; it starts at 0. 0 is without.
        in_place: changes the model itself; otherwise a copy is converted.
        settings: of the attention, such as features=128.

    Raises:
        ValueError: for an unknown attention, or a model that cannot be converted, by its name.
        TypeError: for a model of another library or an unknown setting.
    """
    maps.check(attention, settings)
    if any(isinstance(part, ConvertedAttention | CausalAttention) for part in model.modules()):
        raise ValueError(f"{type(model).__name__} is converted already")
    libraries = {base.__module__.split(".")[0] for base in type(model).__mro__}
    if "transformers" in libraries:
        if softmax_class_token or convolution:
            raise ValueError("softmax_class_token and convolution are for models of timm")
        from sextant.methods.conversion import registry

        registry.check(model, attention, settings)
        model = model if in_place else copy.deepcopy(model)
        registry.convert(model, attention, settings)
        return model
    if "timm" in libraries:
        from sextant.methods.conversion import vision

        vision.check(model)
        model = model if in_place else copy.deepcopy(model)
        vision.convert(model, attention, settings, softmax_class_token, convolution)
        return model
    raise TypeError(f"model must be of transformers or timm, got {type(model).__name__}")
