"""Linear attention with learned features that imitate softmax weights (Zhang et al. 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention, linear_attention, masked

Form = Literal["softmax", "exponential"]

SMALLEST_FEATURE = 1e-12
"""Features are not let below this, so that no query is left without weight."""

LARGEST_EXPONENT = 10.0
"""Exponents of the "exponential" form are clipped to this size, up and down."""


class HedgehogAttention(Attention):
    """Learned maps of queries and keys, rows normalised (arXiv 2402.04347).

    Form "softmax": phi(x) = [softmax(A x), softmax(-A x)], each over its own features, with a
    square A for each head, one for queries and one for keys, the identity at the start: 2 D
    features, 2 H D^2 parameters. Form "exponential": phi(x) = exp(W x + b) clipped, one map for
    queries and keys, no negation, Xavier start with gain 0.5: D features, H (D^2 + D) parameters;
    it is what the LOTFormer authors' code calls Hedgehog.

    O((N + M) D (D + D_v)) time and O((N + M) D) memory a head.

    Args:
        heads: H.
        head_dimension: D.
        length: accepted and checked, else unused.
        form: "softmax" or "exponential".

    Raises:
        ValueError: for another form.
    """

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int | None = None,
        form: Form = "softmax",
    ) -> None:
        super().__init__(heads, head_dimension, length)
        if form not in ("softmax", "exponential"):
            raise ValueError(f"form must be 'softmax' or 'exponential', got {form!r}")
        self.form = form
        self.query_weight = nn.Parameter(torch.empty(heads, head_dimension, head_dimension))
        if form == "softmax":
            self.key_weight = nn.Parameter(torch.empty(heads, head_dimension, head_dimension))
        else:
            self.bias = nn.Parameter(torch.empty(heads, 1, head_dimension))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the maps to their start, drawn from torch's global generator where it is random."""
        with torch.no_grad():
            if self.form == "softmax":
                identity = torch.eye(self.query_weight.shape[-1])
                self.query_weight.copy_(identity.expand_as(self.query_weight))
                self.key_weight.copy_(identity.expand_as(self.key_weight))
                return
            for weight in self.query_weight:
                nn.init.xavier_uniform_(weight, gain=0.5)
            self.bias.zero_()

    def query_features(self, queries: Tensor) -> Tensor:
        """(B, H, N, D) to positive features, (B, H, N, 2 D) or (B, H, N, D) by form."""
        return self._features(queries, self.query_weight)

    def key_features(self, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, H, M, D) to features (B, H, M, 2 D) or (B, H, M, D), positive, 0 for masked keys."""
        weight = self.key_weight if self.form == "softmax" else self.query_weight
        return masked(self._features(keys, weight), key_mask)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        return linear_attention(
            self.query_features(queries), self.key_features(keys, key_mask), values, key_mask
        )

    def _features(self, rows: Tensor, weight: Tensor) -> Tensor:
        mapped = rows @ weight.to(rows.dtype).transpose(-1, -2)
        if self.form == "exponential":
            mapped = mapped + self.bias.to(rows.dtype)
            return mapped.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
        both = torch.cat((mapped.softmax(-1), (-mapped).softmax(-1)), -1)
        return both.clamp(min=SMALLEST_FEATURE)
