"""Every query gets the mean of the values: what an attention must beat to have attended."""

from __future__ import annotations

from torch import Tensor

from sextant.methods.attention.base import Attention, masked


class UniformAttention(Attention):
    """The mean of the real values, whatever queries and keys say: a control of ours, the doubly
    stochastic matrix of largest entropy, and near what the attention of Shahbazi et al. (2025)
    starts from. O((N + M) D_v) time and memory. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
    """

    learns_through = ()

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        if key_mask is None:
            mean = values.mean(2, keepdim=True)
        else:
            count = key_mask.sum(1).clamp(min=1).to(values.dtype)[:, None, None, None]
            mean = masked(values, key_mask).sum(2, keepdim=True) / count
        return mean.expand(-1, -1, queries.shape[2], -1)
