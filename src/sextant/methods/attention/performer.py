"""Linear attention with positive orthogonal random features, FAVOR+ (Choromanski et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention, linear_attention, masked
from sextant.ranges import at_least, not_negative

Scaling = Literal["once", "twice"]

SMALLEST_DENOMINATOR = 1e-16
"""The maxima that are taken off make features, and so honest denominators, as small as 1e-9."""


class PerformerAttention(Attention):
    """phi(x) = exp(W x - |x|^2 / 2) / sqrt(F), x scaled by D^(-1/4) (arXiv 2009.14794).

    E phi(q) phi(k) = exp(q k / sqrt(D)) over the random W, so that this estimates softmax
    attention. The exponents are kept small by taking off the largest w x: that of each query and,
    one number for a batch entry and head, that of all real keys. Both cancel in the output but for
    `feature_epsilon`.

    O((N + M) F (D + D_v)) time and O((N + M) F) memory a head. Nothing is learnt; W is a buffer
    shared by the heads and drawn by `reset_parameters` alone.

    Args:
        head_dimension: D.
        heads: accepted and checked, else unused.
        length: accepted and checked, else unused.
        features: F, the rows of W.
        scaling: "once" as above; "twice" scales queries and keys by D^(-1/4) once more, as the
            ports behind the printed rows do, and so estimates exp(q k / D).
        feature_epsilon: added to every feature before the factor 1 / sqrt(F), not negative.

    Raises:
        ValueError: for fewer than 1 feature, another scaling or a negative epsilon.
    """

    projection: Tensor

    def __init__(
        self,
        head_dimension: int,
        heads: int | None = None,
        length: int | None = None,
        features: int = 128,
        scaling: Scaling = "once",
        feature_epsilon: float = 1e-4,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, features=features)
        if scaling not in ("once", "twice"):
            raise ValueError(f"scaling must be 'once' or 'twice', got {scaling!r}")
        not_negative(feature_epsilon=feature_epsilon)
        self.features, self.scaling, self.feature_epsilon = features, scaling, feature_epsilon
        self.register_buffer("projection", torch.empty(features, head_dimension))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random projection anew from torch's global generator."""
        self.projection.copy_(orthogonal_gaussian(*self.projection.shape))

    def query_features(self, queries: Tensor) -> Tensor:
        """(B, H, N, D) to positive features (B, H, N, F), each row with a factor of its own."""
        scaled = self._scaled(queries)
        projected = self._projected(scaled)
        return self._features(scaled, projected, projected.detach().amax(-1, keepdim=True))

    def key_features(self, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, H, M, D) to features (B, H, M, F), one factor for each batch entry and head."""
        scaled = self._scaled(keys)
        projected = self._projected(scaled)
        real = projected.detach()
        if key_mask is not None:
            real = real.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        largest = real.amax((-1, -2), keepdim=True).nan_to_num(neginf=0.0)
        return masked(self._features(scaled, projected, largest), key_mask)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        query_features = self.query_features(queries)
        key_features = self.key_features(keys, key_mask)
        return linear_attention(
            query_features, key_features, values, key_mask, SMALLEST_DENOMINATOR
        )

    def _scaled(self, rows: Tensor) -> Tensor:
        return rows * rows.shape[-1] ** (-0.25 if self.scaling == "once" else -0.5)

    def _projected(self, scaled: Tensor) -> Tensor:
        return scaled @ self.projection.to(scaled.dtype).T

    def _features(self, scaled: Tensor, projected: Tensor, largest: Tensor) -> Tensor:
        exponents = projected - scaled.square().sum(-1, keepdim=True) / 2 - largest
        return (exponents.exp() + self.feature_epsilon) * self.features**-0.5


def orthogonal_gaussian(rows: int, columns: int) -> Tensor:
    """Rows that are each standard normal, and orthogonal within every block of `columns` of them.

    Directions are the orthogonal factor of a Gaussian matrix, lengths those of independent Gaussian
    vectors (section 3 of arXiv 2009.14794). O(rows columns^2), from torch's global generator.

    Args:
        rows: how many, at least 1.
        columns: their dimension, at least 1.

    Returns:
        (rows, columns), float32.
    """
    blocks = -(-rows // columns)
    orthogonal, triangular = torch.linalg.qr(torch.randn(blocks, columns, columns))
    # With the signs of the diagonal the factor is uniform over rotations and reflections.
    signs = triangular.diagonal(dim1=-2, dim2=-1).sign()
    directions = (orthogonal * signs[:, None, :]).transpose(-1, -2).reshape(-1, columns)
    lengths = torch.randn(rows, columns).norm(dim=1, keepdim=True)
    return directions[:rows] * lengths
