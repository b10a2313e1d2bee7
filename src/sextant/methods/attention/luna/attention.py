"""Linear attention through LUNA's learned feature map, and its special cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sextant.methods.attention.base import Attention, masked
from sextant.methods.attention.luna.feature_map import FeatureMap
from sextant.methods.attention.luna.piecewise import Table
from sextant.methods.attention.luna.ratio import Ratio, with_ones
from sextant.methods.attention.luna.streaming import State, causal, start
from sextant.methods.attention.luna.sums import Read, Summarise
from sextant.methods.attention.nystromformer import query_mask
from sextant.methods.signatures import passes_on_to
from sextant.ranges import at_least, positive

CHUNK = {"cpu": 1 << 15, "cuda": 1 << 20}
"""Numbers (batch x heads x tokens x projections) a piece of the recomputing form works on."""
TABLE_PAYS = 1 << 13
"""Numbers from which a table of the channel functions makes up for the making of it."""
TOKENS_PER_KNOT = 5
"""Tokens a head from which sums without features, whose tables grow with the knots, are faster."""


@passes_on_to(FeatureMap, "dimension", "projections")
class LunaAttention(Attention):
    """phi(q) S / max(phi(q) z, epsilon) with S = phi(K)^T V, z = phi(K)^T 1 and a learned phi.

    LUNA (arXiv 2512.08061), equations 9 and 11. One map for all heads, for queries and for keys;
    see `FeatureMap` for its settings, which are the same here. There is no attention matrix, and so
    no dropout of it.

    On a CPU, channel functions that are piecewise linear (a ReLU hidden layer; nonnegative relu or
    none; no cap) never form a feature of a long sequence: see `sums`; of a short one they keep the
    features, as other linear attentions do. Otherwise tokens are taken in pieces whose features the
    backward pass computes again, so that what is kept does not depend on hidden, L or m.

    Cost, a head: O(N m (d + L d_v + D_v)) time at most, where N counts queries and keys;
    memory kept for the backward pass O(N (m + d_v)), or O(N (d + d_v)) in pieces.

    Args:
        heads: H, or None for any number; the map does not depend on it.
        head_dimension: d of queries and keys.
        length: the largest number of tokens, or None for any; the map does not depend on it.
        features: D = m L, the budget; a multiple of the number of channels.
        epsilon: the smallest denominator. Where features can be negative it is the smallest
            absolute value, with the sign kept.
        chunk: numbers a piece works on; None chooses for the device.
        recompute: False keeps all features of the pieces for the backward pass.
        settings: hidden and what follows it in `FeatureMap`.

    Raises:
        ValueError: as `FeatureMap`, or for features that are no multiple of the channels, an
            epsilon that is not positive or a chunk below 1.
    """

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int = 32,
        length: int | None = None,
        features: int = 128,
        channels: int = 8,
        epsilon: float = 1e-6,
        chunk: int | None = None,
        recompute: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        channels = {"learned": channels, "cosine_sine": 2}.get(
            settings.get("functions", "learned"), 1
        )
        if channels < 1 or features < 1 or features % channels:
            raise ValueError(
                f"features must be a positive multiple of the {channels} channels, got {features}"
            )
        positive(epsilon=epsilon)
        if chunk is not None:
            at_least(1, chunk=chunk)
        self.epsilon, self.chunk, self.recompute = epsilon, chunk, recompute
        self.feature_map = FeatureMap(head_dimension, features // channels, channels, **settings)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """See `Attention.attend`."""
        rows = with_ones(values, key_mask)
        table = self._useful_table(queries, keys)
        if self.feature_map.cap is not None:
            return self._attend_at_once(queries, keys, rows, table, self.recompute)
        if not self.feature_map.piecewise_linear or queries.device.type != "cpu":
            return self._attend_in_pieces(queries, keys, rows, table)
        shorter = min(queries.shape[2], keys.shape[2])
        if table is None or shorter < TOKENS_PER_KNOT * len(table.knots):
            return self._attend_at_once(queries, keys, rows, table, recompute=False)
        return self._attend_without_features(queries, keys, rows, table)

    def _attend_without_features(
        self, queries: Tensor, keys: Tensor, rows: Tensor, table: Table
    ) -> Tensor:
        """Through `sums`; rows (B, H, M, d_v + 1) are masked."""
        shrink = self.feature_map.projections**-0.5
        table = Table(table.knots, table.slopes * shrink, table.intercepts * shrink)
        if self.feature_map.envelope != "none":
            rows = rows * self.feature_map.scale_of(keys)[..., None]
        at_keys = self.feature_map.project(keys).flatten(0, 1)
        at_queries = self.feature_map.project(queries).flatten(0, 1)
        summary = Summarise.apply(at_keys, rows.flatten(0, 1), *table)
        sums = Read.apply(at_queries, summary, *table).unflatten(0, queries.shape[:2])
        if self.feature_map.envelope != "none":
            sums = sums * self.feature_map.scale_of(queries)[..., None]
        return self._ratio(sums)

    def _attend_in_pieces(
        self, queries: Tensor, keys: Tensor, rows: Tensor, table: Table | None
    ) -> Tensor:
        """Features of a piece of the tokens at a time, computed again by the backward pass."""
        heads = queries.shape[0] * queries.shape[1]
        chunk = self.chunk or CHUNK.get(queries.device.type, CHUNK["cuda"])
        step = max(1, chunk // max(1, heads * self.feature_map.projections))
        width = (*rows.shape[:2], self.feature_map.features, rows.shape[3])
        summary = rows.new_zeros(width)
        for some in spans(keys.shape[2], step):
            part = self._piece(
                self._summary, keys[:, :, some], rows[:, :, some], table, again=self.recompute
            )
            summary = summary + part
        read = [
            self._piece(self._read, queries[:, :, some], summary, table, again=self.recompute)
            for some in spans(queries.shape[2], step)
        ]
        return torch.cat(read, 2) if read else rows.new_zeros(*queries.shape[:3], width[3] - 1)

    def _attend_at_once(
        self, queries: Tensor, keys: Tensor, rows: Tensor, table: Table | None, recompute: bool
    ) -> Tensor:
        """All features of all tokens: for a cap, which depends on them all, and for few tokens."""
        summary = self._piece(self._summary, keys, rows, table, again=recompute)
        return self._piece(self._read, queries, summary, table, again=recompute)

    def _piece(self, function: Any, *arguments: Any, again: bool) -> Tensor:
        if again and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

    def _summary(self, keys: Tensor, rows: Tensor, table: Table | None) -> Tensor:
        return self.feature_map(keys, table).transpose(-1, -2) @ rows

    def _read(self, queries: Tensor, summary: Tensor, table: Table | None) -> Tensor:
        return self._ratio(self.feature_map(queries, table) @ summary)

    def _ratio(self, sums: Tensor) -> Tensor:
        """Sums (..., d_v + 1) to the first d_v over the last, which is kept away from 0."""
        return Ratio.apply(sums, self.epsilon, not self.feature_map.nonnegative_features)

    def _useful_table(self, queries: Tensor, keys: Tensor) -> Table | None:
        """A table where many numbers make up for the making of it, and memory is a cache."""
        tokens = queries.shape[:3].numel() + keys.shape[:3].numel()
        if queries.device.type != "cpu" or tokens * self.feature_map.projections < TABLE_PAYS:
            return None
        return self.feature_map.tabulate(torch.promote_types(queries.dtype, torch.float32))

    def start(self, queries: Tensor, values: Tensor) -> State:
        """The state before the first token, for queries (B, H, n, d) and values (B, H, n, d_v)."""
        return start(queries, values, self.feature_map.features)

    def stream(
        self,
        state: State,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        key_mask: Tensor | None = None,
        chunk: int = 128,
    ) -> tuple[Tensor, State]:
        """Causal attention of the next n tokens: every one sees the state, itself and those before.

        S_t = S_{t-1} + phi(k_t) v_t^T and z_t = z_{t-1} + phi(k_t). Within a chunk the
        masked quadratic form, between chunks the state; any division of the tokens into calls and
        chunks gives the same numbers but for rounding.
        O(n (chunk (D + d_v) + D d_v)) time; O(chunk D + chunk^2 + D d_v) memory beyond input and
        output, a head, whatever n, without a graph.

        Args:
            state: from `start` or from the call before.
            queries, keys, values, key_mask: the next tokens, as in `forward`; as many queries as
                keys.
            chunk: tokens at a time, at least 1.

        Returns:
            The output (B, H, n, d_v) in the dtype of the queries, and the state after the tokens.

        Raises:
            TypeError, ValueError: as `forward`; or for a map with a cap, unequally many queries and
                keys, or a chunk below 1.
        """
        self.check(queries, keys, values, key_mask)
        if self.feature_map.cap is not None:
            raise ValueError("a map with a cap needs all tokens at once and cannot stream")
        with torch.autocast(queries.device.type, enabled=False):
            table = self._useful_table(queries, keys)
            return causal(
                lambda tokens: self.feature_map(tokens, table),
                self._ratio,
                state,
                (queries, keys, values),
                key_mask,
                chunk,
            )

    @torch.no_grad()
    def diagnostics(
        self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None
    ) -> dict[str, float]:
        """What tells a map in trouble, at the cost of one call.

        `dead_channel_fraction`; `smallest_denominator`, the least phi(q) z of a real query, before
        epsilon, infinite where there is none; and the norms of `FeatureMap.norms`. Where queries
        are as many as keys they are the same tokens, and the mask says which are real.
        """
        ones = keys.new_ones(*keys.shape[:3], 1)
        self.check(queries, keys, ones, key_mask)
        with torch.autocast(queries.device.type, enabled=False):
            total = masked(self.feature_map(keys), key_mask).sum(-2)
            denominators = (self.feature_map(queries) @ total[..., None])[..., 0]
        real = query_mask(queries, key_mask)
        if real is not None:
            denominators = denominators.masked_fill(~real[:, None], torch.inf)
        smallest = denominators.min().item()
        return {
            "dead_channel_fraction": self.feature_map.dead_channel_fraction(),
            "smallest_denominator": smallest,
            **self.feature_map.norms(),
        }


def spans(count: int, step: int) -> list[slice]:
    """Slices of at most `step` that make up range(count)."""
    return [slice(begin, begin + step) for begin in range(0, count, step)]
