"""Byte documents one after another, and how they become rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Sequences of small numbers, one after another.

    Args:
        values: uint8, all sequences; memory-mapped files are read row by row.
        ends: int64 (n,), where each sequence ends in `values`.
        shift: added to a value to give its token, so that 0 stays padding.
    """

    values: np.ndarray
    ends: np.ndarray
    shift: int = 1

    def __len__(self) -> int:
        return len(self.ends)

    def tokens(self, rows: Tensor, length: int, truncate: int) -> tuple[Tensor, Tensor]:
        """Rows (...) as tokens int64 (..., length), zeros behind, and the mask of real tokens.

        Args:
            rows: int64, numbers of sequences.
            length: of every row of tokens.
            truncate: at most this many tokens are kept of each, the first; at most `length`.
        """
        tokens = np.zeros((rows.numel(), length), np.int64)
        mask = np.zeros((rows.numel(), length), bool)
        for place, row in enumerate(rows.flatten().tolist()):
            start = int(self.ends[row - 1]) if row else 0
            stop = min(int(self.ends[row]), start + truncate)
            tokens[place, : stop - start] = self.values[start:stop]
            tokens[place, : stop - start] += self.shift
            mask[place, : stop - start] = True
        shape = (*rows.shape, length)
        return torch.from_numpy(tokens).reshape(shape), torch.from_numpy(mask).reshape(shape)

    def without(self, value: int) -> Documents:
        """The documents with every `value` taken out."""
        kept = np.asarray(self.values) != value
        before = np.concatenate(([0], np.cumsum(kept)))
        return Documents(np.asarray(self.values)[kept], before[self.ends], self.shift)


def as_documents(texts: Iterable[bytes]) -> Documents:
    """Byte strings as documents; token = byte + 1."""
    parts = list(texts)
    values = np.frombuffer(b"".join(parts), np.uint8)
    return Documents(values, np.cumsum([len(part) for part in parts], dtype=np.int64))
