"""The attentions a model can be converted to, by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from sextant.methods.attention.base import Attention
from sextant.methods.attention.cosformer import CosformerAttention
from sextant.methods.attention.hedgehog import HedgehogAttention
from sextant.methods.attention.linear_transformer import LinearTransformerAttention
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.performer import PerformerAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.t2r import T2RAttention

MAPS: dict[str, Callable[..., Attention]] = {
    "cosformer": CosformerAttention,
    "hedgehog": HedgehogAttention,
    "linear_transformer": LinearTransformerAttention,
    "luna": LunaAttention,
    "performer": PerformerAttention,
    "softmax": SoftmaxAttention,
    "t2r": T2RAttention,
}
CAUSAL = ("luna",)
"""Those with a form in which a token sees only itself and those before it."""


def check(wanted: str | Attention, settings: dict[str, Any], causal: bool = False) -> None:
    """Raises ValueError or TypeError, in one sentence, for what `build` could not build."""
    name = name_of(wanted)
    if name not in MAPS and isinstance(wanted, str):
        raise ValueError(f"attention must be one of {', '.join(MAPS)}, got {name!r}")
    if causal and name not in CAUSAL:
        raise ValueError(
            f"attention must be causal for a decoder, one of {', '.join(CAUSAL)}; {name} lets a "
            "token see those after it"
        )
    if not isinstance(wanted, str):
        if settings:
            raise TypeError(f"settings must go into the {name} that is given, got {list(settings)}")
        return
    known = set(inspect.signature(MAPS[name]).parameters)
    for setting in settings:
        if setting not in known - {"heads", "head_dimension"}:
            raise TypeError(f"{name} has no setting {setting!r}")


def name_of(wanted: str | Attention) -> str:
    """The name of an attention; of one that is given, where it has one, else its class."""
    if isinstance(wanted, str):
        return wanted
    return next((key for key, kind in MAPS.items() if type(wanted) is kind), type(wanted).__name__)


def build(
    wanted: str | Attention,
    heads: int,
    head_dimension: int,
    length: int | None,
    settings: dict[str, Any],
) -> Attention:
    """One attention for one layer, drawn from torch's global generator; a given one is copied.

    `length` is what a map that depends on the length of the whole sequence (cosFormer) is given, so
    that its outputs do not depend on how far a batch is padded; `settings` go over it.
    """
    if not isinstance(wanted, str):
        attention = copy.deepcopy(wanted)
        attention.reset_parameters()
        return attention
    given = {"length": length} if wanted == "cosformer" else {}
    return MAPS[wanted](heads=heads, head_dimension=head_dimension, **(given | settings))
