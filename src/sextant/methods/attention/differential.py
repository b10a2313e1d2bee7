"""Differential attention: what two attentions have in common is subtracted (Ye et al. 2025)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.attention.base import Attention
from sextant.methods.attention.softmax import SoftmaxAttention


class DifferentialAttention(Attention):
    """(1 - l0) norm((A(q1, k1) - l A(q2, k2)) v), q and k cut into halves (arXiv 2410.05258).

    l = exp(a . b) - exp(c . d) + l0 with learned vectors of D / 2 numbers that all heads share, and
    norm the RMSNorm of each head's output with learned gains. A head of width D here is one of the
    paper's: half the heads of the Transformer it is compared with, each twice as wide.

    Twice the time and memory of the inner attention on halves: with softmax O(N M (D + D_v)) time
    and O(N M) memory a head, as values wider than keys suit none of torch's fused CPU kernels.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: D, even.
        length: accepted and checked, else unused.
        inner: the attention A, made for D / 2; two copies of it are drawn anew. None for softmax,
            as published.
        initial: l0, in [0, 1); None for the paper's 0.8 - 0.6 exp(-0.3 (layer - 1)).
        layer: the layer's number, from 1 on, where `initial` is None.

    Raises:
        ValueError: for settings outside these ranges.
    """

    quadratic = True

    def __init__(
        self,
        heads: int | None,
        head_dimension: int,
        length: int | None = None,
        inner: Attention | None = None,
        initial: float | None = None,
        layer: int = 1,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        if head_dimension % 2:
            raise ValueError(f"head_dimension must be even, got {head_dimension}")
        if initial is not None and not 0 <= initial < 1:
            raise ValueError(f"initial must lie in [0, 1) or be None, got {initial}")
        if layer < 1:
            raise ValueError(f"layer must be at least 1, got {layer}")
        half = head_dimension // 2
        inner = SoftmaxAttention() if inner is None else inner
        if inner.head_dimension not in (None, half):
            raise ValueError(
                f"inner must be made for half the head dimension, {half}, "
                f"got {inner.head_dimension}"
            )
        self.first, self.second = copy.deepcopy(inner), copy.deepcopy(inner)
        self.initial, self.layer = initial, layer
        # The rows a, b, c and d.
        self.vectors = nn.Parameter(torch.empty(4, half))
        # Of the values' width, which is that of the queries.
        self.gain = nn.Parameter(torch.empty(head_dimension))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Vectors N(0, 0.1^2) from torch's global generator, gains 1; the inner attentions' own."""
        super().reset_parameters()
        nn.init.normal_(self.vectors, std=0.1)
        nn.init.ones_(self.gain)

    @property
    def first_lambda(self) -> float:
        """l0."""
        if self.initial is not None:
            return self.initial
        return 0.8 - 0.6 * math.exp(-0.3 * (self.layer - 1))

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`; values must be as wide as the queries."""
        if values.shape[-1] != len(self.gain):
            raise ValueError(
                f"values must be as wide as the queries ({len(self.gain)}), got {values.shape[-1]}"
            )
        mixed = self._mixed(queries, keys, values, key_mask)
        normed = functional.rms_norm(
            mixed, (mixed.shape[-1],), self.gain.to(values.dtype), eps=1e-5
        )
        return (1 - self.first_lambda) * normed

    @torch.no_grad()
    def weights(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The matrix A(q1, k1) - l A(q2, k2), (B, H, N, M), whose rows sum to 1 - l."""
        unit = torch.eye(keys.shape[2], dtype=keys.dtype, device=keys.device)
        unit = unit.expand(*keys.shape[:2], -1, -1).contiguous()
        return self._mixed(queries, keys, unit, key_mask)

    def _mixed(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        queries, keys = queries.chunk(2, -1), keys.chunk(2, -1)
        a, b, c, d = self.vectors.to(values.dtype)
        share = (a @ b).exp() - (c @ d).exp() + self.first_lambda
        first = self.first(queries[0], keys[0], values, key_mask)
        return first - share * self.second(queries[1], keys[1], values, key_mask)
