"""Softmax attention through landmarks by the Nyström method (Xiong et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention
from sextant.methods.attention.softmax import masked_softmax
from sextant.ranges import at_least


class NystromformerAttention(Attention):
    """softmax(q L_k^T) softmax(L_q L_k^T)^+ softmax(L_q k^T) v (arXiv 2102.03902).

    The landmarks L_q and L_k are means over consecutive segments of the tokens. Segments divide the
    *real* tokens of each batch entry evenly, so that a mask is like deleting the masked tokens.
    Where queries and keys are equally many they are the same tokens, and the key mask also says
    which queries are real. Up to `features` tokens the output is softmax attention itself.

    O((N + M) F (D + D_v) + F^3 iterations) time and O((N + M) F) memory a head. Nothing is learnt.

    Args:
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        length: accepted and checked, else unused.
        features: F, the number of landmarks.
        iterations: steps towards the pseudo-inverse.

    Raises:
        ValueError: for fewer than 1 landmark or iteration.
    """

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
        features: int = 128,
        iterations: int = 6,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, features=features, iterations=iterations)
        self.features, self.iterations = features, iterations

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        queries = queries * queries.shape[-1] ** -0.5
        visible = None if key_mask is None else key_mask[:, None, None, :]
        if max(queries.shape[2], keys.shape[2]) <= self.features:
            return masked_softmax(queries @ keys.transpose(-1, -2), visible) @ values
        query_landmarks, query_used = segment_means(
            queries, query_mask(queries, key_mask), self.features
        )
        key_landmarks, key_used = segment_means(keys, key_mask, self.features)
        to_landmarks = key_landmarks.transpose(-1, -2)
        first = masked_softmax(queries @ to_landmarks, used_columns(key_used))
        middle = masked_softmax(query_landmarks @ to_landmarks, used_columns(key_used))
        if query_used is not None:
            # Rows of 0 for landmarks of no token: the pseudo-inverse then ignores these.
            middle = middle.masked_fill(~query_used[:, None, :, None], 0)
        last = masked_softmax(query_landmarks @ keys.transpose(-1, -2), visible)
        return first @ (pseudo_inverse(middle, self.iterations) @ (last @ values))


def used_columns(used: Tensor | None) -> Tensor | None:
    """Which landmarks (B, F) stand for a token, broadcast against scores (B, H, rows, F)."""
    return None if used is None else used[:, None, None, :]


def query_mask(queries: Tensor, key_mask: Tensor | None) -> Tensor | None:
    """The mask of the queries (B, H, N, D) of a self-attention; None where all are taken as real.

    Queries as many as the keys are taken for the same tokens.
    """
    if key_mask is None or key_mask.shape[1] != queries.shape[2]:
        return None
    return key_mask


def segment_means(rows: Tensor, mask: Tensor | None, segments: int) -> tuple[Tensor, Tensor | None]:
    """Means over consecutive segments of the real rows, as even as they can be.

    The k-th of n real rows belongs to segment floor(k segments / n). O(N segments D) time and
    O(N segments) memory for each batch entry, O(N D) where the segments are equal and unmasked.

    Args:
        rows: (B, H, N, D).
        mask: (B, N), True for a real row; None where all are real.
        segments: how many.

    Returns:
        Means (B, H, segments, D), 0 for a segment of no row, and which segments (B, segments) have
        a row, None where all have.
    """
    number = rows.shape[2]
    if mask is None:
        if number % segments == 0:
            return rows.unflatten(2, (segments, -1)).mean(3), None
        mask = torch.ones(len(rows), number, dtype=torch.bool, device=rows.device)
    rank = mask.long().cumsum(1) - 1
    segment = rank * segments // mask.sum(1, keepdim=True).clamp(min=1)
    member = segment[:, None, :] == torch.arange(segments, device=rows.device)[:, None]
    member = (member & mask[:, None, :]).to(rows.dtype)
    size = member.sum(-1)
    rows = rows.masked_fill(~mask[:, None, :, None], 0)
    means = (member[:, None] @ rows) / size.clamp(min=1)[:, None, :, None]
    return means, size > 0


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """The iteration of third order towards the Moore-Penrose inverse (equation 11 of 2102.03902).

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4 from Z = A^T / (largest column sum), which
    converges where no row sums to more than 1, or where A is symmetric of spectral norm at most 1.
    Rows and columns of 0 stay out of it. O(F^3 iterations) time.

    Args:
        matrix: A (..., F, F), not negative.
        iterations: how many; convergence is fast only for well-conditioned matrices.

    Returns:
        (..., F, F).
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    tiny = torch.finfo(matrix.dtype).tiny
    largest = matrix.sum(-2).amax(-1)[..., None, None].clamp(min=tiny)
    inverse = matrix.transpose(-1, -2) / largest
    for _ in range(iterations):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = 0.25 * inverse @ (13 * identity - product @ inner)
    return inverse
