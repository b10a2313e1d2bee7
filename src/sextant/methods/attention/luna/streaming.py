"""Causal linear attention as a state of two statistics that tokens pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sextant.methods.attention.base import masked
from sextant.methods.attention.luna.ratio import with_ones
from sextant.methods.numerics import widened
from sextant.ranges import at_least


class State(NamedTuple):
    """All that is left of the tokens so far, whatever their number.

    summary S = sum phi(k) v^T is (B, H, D, d_v), total z = sum phi(k) is (B, H, D); float32, or
    float64 for float64 tokens.
    """

    summary: Tensor
    total: Tensor


def start(queries: Tensor, values: Tensor, features: int) -> State:
    """The state of no tokens, for queries (B, H, n, d), values (B, H, n, d_v) and D features."""
    shape = (*queries.shape[:2], features)
    summary = widened(values.new_zeros(*shape, values.shape[-1]))
    return State(summary, summary.new_zeros(shape))


def causal(
    features: Callable[[Tensor], Tensor],
    ratio: Callable[[Tensor], Tensor],
    state: State,
    tokens: tuple[Tensor, Tensor, Tensor],
    key_mask: Tensor | None,
    chunk: int,
) -> tuple[Tensor, State]:
    """Every query attends to the state and to the keys up to its own.

    Args:
        features: from tokens (B, H, c, d) to (B, H, c, D).
        ratio: from sums (..., d_v + 1) to their first d_v over their last.
        state: of the tokens before.
        tokens: queries, keys and values (B, H, n, .), checked to go together.
        key_mask: (B, n) bool, or None.
        chunk: tokens at a time.

    Raises:
        ValueError: for unequally many queries and keys, a chunk below 1 or a state of other shapes.
    """
    queries, keys, values = tokens
    count = queries.shape[2]
    if keys.shape[2] != count:
        raise ValueError(f"keys must be as many as the queries ({count}), got {keys.shape[2]}")
    at_least(1, chunk=chunk)
    if state.summary.shape[:2] != queries.shape[:2] or state.summary.shape[3] != values.shape[3]:
        raise ValueError(
            "state must have the batch, heads and value width of the tokens "
            f"{(*queries.shape[:2], values.shape[3])}, got {tuple(state.summary.shape)}"
        )
    sums = torch.cat((state.summary, state.total[..., None]), -1)
    outputs = []
    for begin in range(0, count, chunk):
        some = slice(begin, begin + chunk)
        mask = None if key_mask is None else key_mask[:, some]
        own_keys = widened(masked(keys[:, :, some], mask))
        rows = with_ones(widened(masked(values[:, :, some], mask)), mask)
        at_queries = features(widened(queries[:, :, some]))
        at_keys = masked(features(own_keys), mask)
        weights = (at_queries @ at_keys.transpose(-1, -2)).tril()
        outputs.append(ratio(at_queries @ sums + weights @ rows).to(queries.dtype))
        sums = sums + at_keys.transpose(-1, -2) @ rows
    output = torch.cat(outputs, 2) if outputs else torch.empty_like(values)
    return output, State(sums[..., :-1], sums[..., -1])
