"""Linear attention with the fixed feature map elu + 1 (Katharopoulos et al. 2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sextant.methods.attention.base import Attention, linear_attention, masked
from sextant.ranges import positive

Normaliser = Literal["row", "length"]


class LinearTransformerAttention(Attention):
    """phi(x) = elu(x) + 1 for queries and keys, rows normalised (arXiv 2006.16236).

    O((N + M) D D_v) time and O(D D_v) memory a head beyond input and output. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
        normaliser: "row" divides by phi(q) sum_j phi(k_j), as the paper has it; "length" is the
            form of the Nyströmformer authors' benchmark, which has no denominator and divides by
            (N M)^(1/4), that is sqrt(N), instead, padding counted (their printed numbers depend
            on it).
        epsilon: the smallest denominator of "row".

    Raises:
        ValueError: for another normaliser, or an epsilon that is not positive.
    """

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
        normaliser: Normaliser = "row",
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        if normaliser not in ("row", "length"):
            raise ValueError(f"normaliser must be 'row' or 'length', got {normaliser!r}")
        positive(epsilon=epsilon)
        self.normaliser, self.epsilon = normaliser, epsilon

    def query_features(self, queries: Tensor) -> Tensor:
        """(B, H, N, D) to positive features (B, H, N, D)."""
        return functional.elu(queries) + 1.0

    def key_features(self, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, H, M, D) to features (B, H, M, D), positive, 0 for masked keys."""
        return masked(functional.elu(keys) + 1.0, key_mask)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        query_features = self.query_features(queries)
        key_features = self.key_features(keys, key_mask)
        if self.normaliser == "row":
            return linear_attention(query_features, key_features, values, key_mask, self.epsilon)
        summary = (key_features * keys.shape[2] ** -0.25).transpose(-1, -2) @ values
        return (query_features * queries.shape[2] ** -0.25) @ summary
