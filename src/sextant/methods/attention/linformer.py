"""Softmax attention to projected keys and values (Wang et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention
from sextant.ranges import at_least, positive


class LinformerAttention(Attention):
    """softmax(q (E k)^T / sqrt(D)) E v, E (F, M) for each head (arXiv 2006.04768).

    One E serves keys and values. It is indexed by position, so that a mask, which leaves the masked
    tokens out of the projection, is like deleting keys at the end, not in the middle.

    O((N + M) F (D + D_v)) time and O(N F) memory a head; H F length parameters.

    Args:
        heads: H.
        length: the most keys that may come.
        head_dimension: accepted and checked, else unused.
        features: F, the rows of E.
        learned: False keeps E at its random start, a buffer; that is what the benchmark of the
            printed rows did, by leaving E out of the parameters.
        deviation: standard deviation of E at the start, positive.

    Raises:
        ValueError: for fewer than 1 feature or a deviation that is not positive.
    """

    masking = "at the end"
    projection: Tensor

    def __init__(
        self,
        heads: int,
        length: int,
        head_dimension: int | None = None,
        features: int = 128,
        learned: bool = True,
        deviation: float = 0.02,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, features=features)
        positive(deviation=deviation)
        self.deviation = deviation
        projection = torch.empty(heads, features, length)
        if learned:
            self.projection = nn.Parameter(projection)
        else:
            self.register_buffer("projection", projection)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws E anew from torch's global generator."""
        nn.init.normal_(self.projection, std=self.deviation)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`; masked keys and values, being 0, add nothing to the projection."""
        projection = self.projection[:, :, : keys.shape[2]].to(queries.dtype)
        scores = queries @ (projection @ keys).transpose(-1, -2) * queries.shape[-1] ** -0.5
        return scores.softmax(-1) @ (projection @ values)
