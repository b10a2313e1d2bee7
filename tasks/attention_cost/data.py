"""Random queries, keys and values of several lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.ranges import at_least

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class NormalTokens(pl.LightningDataModule):
    """Queries, keys and values (batch, heads, N, head_dimension) for every length N, all N(0, 1).

    Args:
        lengths: every N, rising.
        batch: B.
        heads: H.
        head_dimension: d of queries, keys and values.
        dtype: "float32" or "bfloat16".

    Raises:
        ValueError: for lengths that do not rise or are below 1, a size below 1 or another dtype.
    """

    first_step = 0

    def __init__(
        self,
        lengths: Sequence[int],
        batch: int = 1,
        heads: int = 2,
        head_dimension: int = 32,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if not lengths or list(lengths) != sorted({length for length in lengths if length > 0}):
            raise ValueError(f"lengths must be above 0 and rise, got {list(lengths)}")
        at_least(1, batch=batch, heads=heads, head_dimension=head_dimension)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.lengths, self.dtype = tuple(lengths), dtype
        self.size = (batch, heads, head_dimension)
        self._streams: Streams | None = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Takes the run's random streams."""
        self._streams = streams

    def tokens(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a length, on the CPU; a pure function of seed and length.

        Raises:
            RuntimeError: before `prepare`.
        """
        if self._streams is None:
            raise RuntimeError("call prepare(streams, parents) before anything is drawn")
        batch, heads, dimension = self.size
        generator = self._streams.generator("tokens", length)
        draws = torch.randn((3, batch, heads, length, dimension), generator=generator)
        # One tensor each, so that what is kept of one does not count as kept of all.
        queries, keys, values = (draw.to(DTYPES[self.dtype], copy=True) for draw in draws)
        return queries, keys, values

    def fingerprints(self) -> dict[str, str]:
        """The law: sizes and lengths."""
        batch, heads, dimension = self.size
        shape = f"({batch}, {heads}, N, {dimension})"
        return {"tokens": f"N(0, 1) {shape}, N = {', '.join(map(str, self.lengths))}, {self.dtype}"}
