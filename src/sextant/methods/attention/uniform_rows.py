"""The answer that needs no kernel: what a feature map must beat to have learned anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sextant.contracts import Parent, Streams


class UniformRows:
    """Gives every key the same weight, whatever the query."""

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare."""

    def rows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Rows (B, n, m), every number 1 / m, of queries (B, n, d) and keys (B, m, d)."""
        size = (*queries.shape[:2], keys.shape[1])
        return queries.new_full(size, 1.0 / keys.shape[1])
