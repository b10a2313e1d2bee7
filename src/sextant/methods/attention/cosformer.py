"""Linear attention with relu features re-weighted by position (Qin et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention, linear_attention, masked
from sextant.ranges import positive


class CosformerAttention(Attention):
    """relu(q_i) relu(k_j) cos(pi (i - j) / (2 n)), rows normalised (arXiv 2202.08791).

    The cosine of a difference is a product of features, cos cos + sin sin, so that the cost is
    linear: O((N + M) D D_v) time and O((N + M) D) memory a head. Nothing is learnt.

    Positions count masked tokens, so that a mask is like deleting keys at the end (with `length`
    given), not in the middle.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: n; None takes the longer of the queries and the keys of each call.
        epsilon: the smallest denominator.

    Raises:
        ValueError: for an epsilon that is not positive.
    """

    masking = "at the end"

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        positive(epsilon=epsilon)
        self.epsilon = epsilon

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        longest = self.length or max(queries.shape[2], keys.shape[2])
        query_features = positioned(queries.relu(), longest)
        key_features = masked(positioned(keys.relu(), longest), key_mask)
        return linear_attention(query_features, key_features, values, key_mask, self.epsilon)


def positioned(features: Tensor, longest: int) -> Tensor:
    """Features (..., N, F) to (..., N, 2 F): times the cosine and the sine of pi i / (2 longest).

    Position i counts from 0; only differences of positions reach the attention.
    """
    positions = torch.arange(features.shape[-2], device=features.device, dtype=features.dtype)
    angles = (math.pi / 2 / longest) * positions[:, None]
    return torch.cat((features * angles.cos(), features * angles.sin()), -1)
