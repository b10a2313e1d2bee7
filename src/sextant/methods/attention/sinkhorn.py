"""Doubly stochastic attention by Sinkhorn's iteration (Sander et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention
from sextant.methods.attention.nystromformer import query_mask

FAR = -1e30
"""Logarithm of nothing; finite, since differences of infinite ones are no numbers."""


class SinkhornAttention(Attention):
    """N P v, P the entropic plan of cost -q k / sqrt(D) that S half-steps reach (arXiv 2110.11773).

    Rows and columns of exp(q k / sqrt(D) / epsilon) are made to sum to 1 in turn, rows first, in
    the log domain: one half-step is softmax attention; after an odd number rows sum to 1, after an
    even one columns (to N / M).

    Where queries and keys are equally many they are the same tokens, and the key mask also says
    which queries are real: masked tokens have no mass, as if deleted.

    O(N M (D + D_v + S)) time and O(N M) memory a head, S times that in training. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
        half_steps: S, at least 1.
        epsilon: regularisation, positive.

    Raises:
        ValueError: for settings outside these ranges.
    """

    quadratic = True

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
        half_steps: int = 3,
        epsilon: float = 1.0,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        if half_steps < 1:
            raise ValueError(f"half_steps must be at least 1, got {half_steps}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.half_steps, self.epsilon = half_steps, epsilon

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        factor = queries.shape[-1] ** -0.5 / self.epsilon
        scores = queries @ keys.transpose(-1, -2) * factor
        hidden_rows = hidden_columns = None
        sizes = (torch.tensor(float(n), dtype=scores.dtype) for n in scores.shape[2:])
        rows_number, columns_number = sizes
        if key_mask is not None:
            key_mask = key_mask | ~key_mask.any(1, keepdim=True)
            hidden_columns = ~key_mask[:, None, None, :]
            scores = scores.masked_fill(hidden_columns, FAR)
            columns_number = key_mask.sum(1).to(scores.dtype)[:, None, None, None]
            if (real := query_mask(queries, key_mask)) is not None:
                hidden_rows = ~real[:, None, :, None]
                rows_number = columns_number
        level = (rows_number / columns_number).log().to(scores.device)
        rows, columns = scores.new_zeros(()), scores.new_zeros(())
        for step in range(self.half_steps):
            if step % 2 == 0:
                rows = -(scores + columns).logsumexp(-1, keepdim=True)
                rows = rows if hidden_rows is None else rows.masked_fill(hidden_rows, FAR)
            else:
                columns = level - (scores + rows).logsumexp(-2, keepdim=True)
                if hidden_columns is not None:
                    columns = columns.masked_fill(hidden_columns, 0)
        return (scores + rows + columns).exp() @ values
