"""Linear attention with a learned relu map, Transformer-to-RNN (Kasai et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention, linear_attention, masked
from sextant.ranges import at_least, positive


class T2RAttention(Attention):
    """phi(x) = relu(W x + b), one map a head for queries and keys (arXiv 2103.13076).

    Rows are normalised; a query that shares no feature with any key gets 0.
    O((N + M) F (D + D_v)) time and O((N + M) F) memory a head; H F (D + 1) parameters.

    Args:
        heads: H.
        head_dimension: D.
        length: accepted and checked, else unused.
        features: F.
        epsilon: the smallest denominator.

    Raises:
        ValueError: for fewer than 1 feature or an epsilon that is not positive.
    """

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int | None = None,
        features: int = 128,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, features=features)
        positive(epsilon=epsilon)
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(heads, features, head_dimension))
        self.bias = nn.Parameter(torch.empty(heads, 1, features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the map as torch draws a linear layer, from its global generator."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def query_features(self, queries: Tensor) -> Tensor:
        """(B, H, N, D) to features (B, H, N, F), not negative."""
        mapped = queries @ self.weight.to(queries.dtype).transpose(-1, -2)
        return (mapped + self.bias.to(queries.dtype)).relu()

    def key_features(self, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, H, M, D) to features (B, H, M, F), not negative, 0 for masked keys."""
        return masked(self.query_features(keys), key_mask)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        return linear_attention(
            self.query_features(queries),
            self.key_features(keys, key_mask),
            values,
            key_mask,
            self.epsilon,
        )
