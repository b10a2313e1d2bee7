"""The Gaussian kernel through sampled landmarks by the Nyström method (Chen et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention, masked
from sextant.methods.attention.kernelized import gaussian_kernel
from sextant.methods.attention.nystromformer import pseudo_inverse, query_mask
from sextant.ranges import at_least, positive


class SkyformerAttention(Attention):
    """k(q, Z) (k(Z, Z) + ridge I)^-1 k(Z, k) v, k Gaussian (arXiv 2111.00035).

    Queries and keys are scaled by D^(-1/4), and rows are not normalised. Half of the landmarks Z
    are drawn from the real queries and half from the real keys, with replacement; the kernel of the
    landmarks is inverted after dividing rows and columns by the roots of its row sums.

    Landmarks are drawn afresh in every training step and are those of a buffer in evaluation. Where
    queries and keys are equally many they are the same tokens, and the key mask also says which
    queries are real. A mask is like deleting the masked tokens.

    O((N + M) F (D + D_v) + F^3 iterations) time and O((N + M) F) memory a head. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
        features: F, the number of landmarks, at least 2.
        iterations: steps towards the inverse.
        ridge: added to the diagonal of the landmarks' kernel, positive.

    Raises:
        ValueError: for settings outside these ranges.
    """

    places: Tensor

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
        features: int = 128,
        iterations: int = 6,
        ridge: float = 0.1,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(2, features=features)
        at_least(1, iterations=iterations)
        positive(ridge=ridge)
        self.iterations, self.ridge = iterations, ridge
        self.register_buffer("places", torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the landmarks' places anew from torch's global generator."""
        self.places.uniform_()

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        scale = queries.shape[-1] ** -0.25
        queries, keys = queries * scale, keys * scale
        landmarks = self._landmarks(queries, keys, key_mask)
        gram = gaussian_kernel(landmarks, landmarks)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        gram = gram + self.ridge * identity
        roots = gram.sum(-1, keepdim=True).rsqrt()
        inverse = pseudo_inverse(roots * gram * roots.transpose(-1, -2), self.iterations)
        summary = gaussian_kernel(landmarks, keys) @ masked(values, key_mask)
        return gaussian_kernel(queries, landmarks) @ (roots * (inverse @ (roots * summary)))

    def _landmarks(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
        """(B, H, F, D): rows of the queries, then rows of the keys."""
        places = self.places
        if self.training:
            places = torch.rand(len(queries), len(places), device=places.device)
        half = places.shape[-1] // 2
        mask = query_mask(queries, key_mask)
        from_queries = drawn_tokens(places[..., :half], mask, queries)
        from_keys = drawn_tokens(places[..., half:], key_mask, keys)
        return torch.cat(
            (
                queries.take_along_dim(from_queries[:, None, :, None], 2),
                keys.take_along_dim(from_keys[:, None, :, None], 2),
            ),
            2,
        )


def drawn_tokens(places: Tensor, mask: Tensor | None, rows: Tensor) -> Tensor:
    """Which real token stands at each place: of n real tokens, number floor(place n).

    Args:
        places: (B, U) or (U,) uniform numbers in [0, 1).
        mask: (B, N), True for a real token; None where all are real.
        rows: (B, H, N, D), the tokens.

    Returns:
        int64 (B, U). Where no token is real, any.
    """
    batch, number = len(rows), rows.shape[2]
    places = places.expand(batch, -1)
    if mask is None:
        return (places * number).long().clamp(max=number - 1)
    real = mask.sum(1, keepdim=True)
    # Real tokens first, in their order.
    order = mask.long().argsort(dim=1, descending=True, stable=True)
    rank = torch.minimum((places * real).long(), (real - 1).clamp(min=0))
    return order.gather(1, rank)
