"""Softmax attention, the yardstick of every table, and the masked softmax its relatives share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sextant.methods.attention.base import Attention, nothing_to_mix


class SoftmaxAttention(Attention):
    """softmax(q k^T / sqrt(D)) v through torch's fused kernels (Vaswani et al. 2017).

    O(N M D) time; O((N + M) D) memory where a fused kernel runs, O(N M) a head where torch falls
    back to plain mathematics. There is nothing to learn or draw.

    The kernels add up in float32 whatever comes in, so that bfloat16 stays bfloat16 here: widening
    it would rule the fast ones out.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
    """

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """As `Attention.forward`."""
        self.check(queries, keys, values, key_mask)
        if nothing_to_mix(queries, keys):
            return queries.new_zeros(*queries.shape[:3], values.shape[3])
        visible = None
        if key_mask is not None:
            unreal = ~key_mask[:, None, :, None]
            keys, values = keys.masked_fill(unreal, 0), values.masked_fill(unreal, 0)
            # Where no key is real all may be seen: their values are 0, and no row of the softmax
            # is left empty.
            visible = (key_mask | ~key_mask.any(1, keepdim=True))[:, None, None, :]
        with torch.autocast(queries.device.type, enabled=False):
            return functional.scaled_dot_product_attention(queries, keys, values, visible)


def masked_softmax(scores: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax over the last axis of the scores that may be seen; the others get weight 0.

    Args:
        scores: (..., M).
        visible: bool, broadcast against the scores; None where all may be seen.

    Returns:
        (..., M). A row of which nothing may be seen is uniform, not NaN: its values are 0 anyway.
    """
    if visible is None:
        return scores.softmax(-1)
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
