"""Softmax attention of the few queries that have a preference (Zhou et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sextant.methods.attention.base import Attention
from sextant.methods.attention.nystromformer import query_mask
from sextant.methods.attention.skyformer import drawn_tokens
from sextant.methods.attention.softmax import masked_softmax
from sextant.ranges import at_least


class InformerAttention(Attention):
    """ProbSparse attention: u queries attend, the others get the mean of v (arXiv 2012.07436).

    A query's preference is the largest minus the mean of its scores with c ceil(ln M) real keys,
    drawn with replacement, the same for all queries; the u = c ceil(ln N) queries that prefer most
    attend to all keys. c = ceil(features / ln length).

    Keys are drawn afresh in every training step and are those of a buffer in evaluation. Where
    queries and keys are equally many they are the same tokens, and the key mask also says which
    queries are real. N and M count real tokens, and a mask is like deleting the masked ones.

    O((N + M) u (D + D_v)) time and O((N + M) u) memory a head, u about `features`. Nothing is
    learnt, and which queries attend is not differentiated.

    Args:
        length: the most tokens that may come.
        heads: accepted and checked, else unused.
        head_dimension: accepted and checked, else unused.
        features: about how many queries attend and how many keys are drawn at full length.

    Raises:
        ValueError: for fewer than 1 feature.
    """

    places: Tensor

    def __init__(
        self,
        length: int,
        heads: int | None = None,
        head_dimension: int | None = None,
        features: int = 128,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, features=features)
        self.factor = math.ceil(features / math.log(max(length, 2)))
        self.register_buffer("places", torch.empty(self._count(length)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the keys' places anew from torch's global generator."""
        self.places.uniform_()

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        queries = queries * queries.shape[-1] ** -0.5
        mask = query_mask(queries, key_mask)
        preference = self._preference(queries.detach(), keys.detach(), key_mask)
        if mask is not None:
            preference = preference.masked_fill(~mask[:, None, :], -torch.inf)
        most = min(self._count(queries.shape[2]), queries.shape[2])
        index = preference.topk(most, -1).indices[..., None]
        chosen = queries.take_along_dim(index, 2)
        visible = None if key_mask is None else key_mask[:, None, None, :]
        attended = masked_softmax(chosen @ keys.transpose(-1, -2), visible) @ values
        mean = _mean(values, key_mask)
        if mask is not None:
            # Fewer queries attend where fewer are real.
            allowed = self._counts(mask.sum(1))
            surplus = torch.arange(most, device=mask.device) >= allowed[:, None]
            attended = torch.where(surplus[:, None, :, None], mean, attended)
        rows = mean.expand(-1, -1, queries.shape[2], -1)
        return rows.scatter(2, index.expand_as(attended), attended)

    def _preference(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
        """(B, H, N): the largest minus the mean of the scores with the drawn keys."""
        places = self.places[: self._count(keys.shape[2])]
        if self.training:
            places = torch.rand(len(keys), len(places), device=places.device)
        index = drawn_tokens(places, key_mask, keys)
        scores = queries @ keys.take_along_dim(index[:, None, :, None], 2).transpose(-1, -2)
        if key_mask is None:
            return scores.amax(-1) - scores.mean(-1)
        drawn = self._counts(key_mask.sum(1))[:, None]
        used = (torch.arange(scores.shape[-1], device=drawn.device) < drawn)[:, None, None, :]
        largest = scores.masked_fill(~used, -torch.inf).amax(-1)
        return largest - scores.masked_fill(~used, 0).sum(-1) / drawn[:, None]

    def _count(self, number: int) -> int:
        """c ceil(ln number), at least 1."""
        return max(1, self.factor * math.ceil(math.log(max(number, 1))))

    def _counts(self, numbers: Tensor) -> Tensor:
        """As `_count`, of each number."""
        table = [self._count(number) for number in range(self.length + 1)]
        return torch.tensor(table, device=numbers.device)[numbers]


def _mean(values: Tensor, key_mask: Tensor | None) -> Tensor:
    """(B, H, 1, D_v): the mean of the real values, 0 where there is none."""
    if key_mask is None:
        return values.mean(2, keepdim=True)
    number = key_mask.sum(1).clamp(min=1)[:, None, None, None]
    return values.sum(2, keepdim=True) / number
