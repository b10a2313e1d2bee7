"""Attention by a Gaussian kernel instead of the softmax (Chen et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sextant.methods.attention.base import Attention, masked


class KernelizedAttention(Attention):
    """sum_j exp(-|q - k_j|^2 / 2) v_j with q, k scaled by D^(-1/4) (arXiv 2111.00035).

    Rows are not normalised: that is the paper's definition, by which a query far from every key
    gets an output near 0. O(N M (D + D_v)) time and O(N M) memory a head. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
    """

    quadratic = True

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        scale = queries.shape[-1] ** -0.25
        return gaussian_kernel(queries * scale, keys * scale) @ masked(values, key_mask)


def gaussian_kernel(first: Tensor, second: Tensor) -> Tensor:
    """exp(-|x - y|^2 / 2) for rows x (..., N, D) and y (..., M, D): (..., N, M), at most 1."""
    exponents = first @ second.transpose(-1, -2)
    exponents = exponents - first.square().sum(-1)[..., :, None] / 2
    exponents = exponents - second.square().sum(-1)[..., None, :] / 2
    # The three terms cancel for equal rows, and rounding may leave a little above 0.
    return exponents.clamp(max=0.0).exp()
