"""The answer that needs no input: what a classifier must beat to have learned anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sextant.contracts import Parent, Streams
from sextant.ranges import at_least


class MostFrequentClass:
    """Always names the class that occurs most often in the first training batches.

    Args:
        batches: how many are looked at.

    Raises:
        ValueError: for no batches.
    """

    parameter_count = 0

    def __init__(self, batches: int = 200) -> None:
        at_least(1, batches=batches)
        self.batches = batches
        self.counts = torch.zeros(0, dtype=torch.int64)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Counts the labels."""
        self.counts = torch.zeros(data.classes, dtype=torch.int64)
        for *_, labels in islice(data.train_dataloader(), self.batches):
            self.counts += torch.bincount(labels, minlength=data.classes)

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores (B, classes): 1 for that class, the first of equals, and 0 for all others.

        Args:
            tokens: (B, ...); only how many they are matters.
            mask: not looked at.
        """
        named = functional.one_hot(self.counts.argmax(), len(self.counts)).float()
        return named.expand(len(tokens), -1)
