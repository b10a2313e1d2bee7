"""What the masks of transformers say about single keys; what they say beyond that is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def key_mask_for_registry(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """The mask function that goes with the converted attention in transformers' registry.

    Returns:
        (B, 1, 1, kv_length) bool, True for a real key; None where all are real. That a decoder's
        tokens see none after them is the business of the attention.

    Raises:
        ValueError: for a mask that says more: windows, packed sequences, a cache of fixed size.
    """
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    if mask_function is not bidirectional_mask_function:
        if mask_function is not causal_mask_function:
            raise ValueError(
                "the mask must hide padding alone: a converted model serves no windows, chunks, "
                "packed sequences or masks of one's own"
            )
        if kv_offset + kv_length != int(q_offset) + q_length:
            raise ValueError("past_key_values must grow with the tokens; a static cache does not")
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[1] != kv_offset + kv_length:
        raise ValueError(
            f"attention_mask must be (batch, tokens) = ({batch_size}, {kv_offset + kv_length}), "
            f"got {tuple(attention_mask.shape)}"
        )
    return attention_mask[:, None, None, kv_offset:].bool()


def key_mask_from(mask: Tensor | None, keys: int) -> Tensor | None:
    """A mask as attention gets it, (B or 1, 1 or H, 1 or N, M), as (B or 1, M) bool, True for real.

    Boolean masks keep where they are True, others where they are 0; a number so low that softmax
    leaves nothing masks.

    Raises:
        ValueError: for a mask that differs from query to query or from head to head, or that weighs
            a key without masking it: such a mask needs an attention matrix.
    """
    if mask is None:
        return None
    if mask.ndim != 4 or mask.shape[-1] < keys:
        raise ValueError(f"the mask must be (batch, 1, 1, {keys}), got {tuple(mask.shape)}")
    first = mask[:, :1, :1]
    if (mask.shape[1] > 1 or mask.shape[2] > 1) and not bool((mask == first).all()):
        raise ValueError(
            "the mask must hide the same keys from every query and head, "
            "since a converted model forms no attention matrix to mask"
        )
    row = first[:, 0, 0]
    if row.dtype == torch.bool:
        return row
    real = row == 0
    if not bool((real | (row <= torch.finfo(row.dtype).min / 2)).all()):
        raise ValueError(
            "the mask must be 0 or the lowest number there is: a converted model serves no biases"
        )
    return real
