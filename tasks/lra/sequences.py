"""What the five tasks of the Arena share: batches of tokens, masks and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.ranges import at_least
from tasks.lra.documents import Documents
from tasks.shared.stepwise import EpochOrder, StepwiseData

Batch = tuple[Tensor, Tensor, Tensor]
PARTS = ("train", "validation", "test")


class Part(NamedTuple):
    """One part of a data set.

    Args:
        documents: the sequences its rows name.
        rows: int64 (n,), or (n, 2) where an example is two documents.
        labels: int64 (n,).
    """

    documents: Documents
    rows: Tensor
    labels: Tensor

    def spread(self, limit: int | None) -> Part:
        """`limit` of the examples, evenly spread over all, or all where there are no more."""
        n = len(self.labels)
        if limit is None or limit >= n:
            return self
        chosen = torch.arange(limit) * n // limit
        return Part(self.documents, self.rows[chosen], self.labels[chosen])


class SequenceData(StepwiseData):
    """Batches (tokens int64 (B, N), mask bool (B, N) true at real tokens, labels int64 (B,)).

    With two documents an example, tokens and mask are (B, 2, N). The batch of a step depends on
    the run's seed and the step alone; every epoch sees every training example once at most.

    Args:
        batch_size: examples in a batch.
        steps: batches of a run.
        length: N, to which every sequence is padded with zeros.
        vocabulary: how many tokens a model should know, more than the largest that occurs.
        truncate: at most this many tokens are kept of each sequence; None keeps `length`.
        mask_zero_tokens: take every token 0 for padding, as the public code does, also where it is
            a black pixel.
        train_limit: use only so many training examples, evenly spread; None uses all.
        evaluation_limit: the same for validation and test, each.
    """

    classes: int
    least_vocabulary: int
    two_documents = False

    def __init__(
        self,
        batch_size: int,
        steps: int,
        length: int,
        vocabulary: int,
        truncate: int | None = None,
        mask_zero_tokens: bool = False,
        train_limit: int | None = None,
        evaluation_limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, steps)
        at_least(1, length=length)
        if truncate is not None and not 1 <= truncate <= length:
            raise ValueError(f"truncate must lie in 1..{length} or be null, got {truncate}")
        if vocabulary < self.least_vocabulary:
            raise ValueError(
                f"vocabulary must be at least {self.least_vocabulary}, got {vocabulary}"
            )
        limits = {"train_limit": train_limit, "evaluation_limit": evaluation_limit}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1 or null, got {limit}")
        self.length, self.vocabulary = length, vocabulary
        self.truncate, self.mask_zero_tokens = truncate or length, mask_zero_tokens
        self.train_limit, self.evaluation_limit = train_limit, evaluation_limit

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads or generates the data."""
        super().prepare(streams, parents)
        self._fingerprints: dict[str, str] = {}
        parts = self.read()
        limits = dict(zip(PARTS, (self.train_limit, *[self.evaluation_limit] * 2), strict=True))
        self.parts = {name: parts[name].spread(limits[name]) for name in PARTS}
        self.order = EpochOrder(len(self.parts["train"].labels), self.batch_size, streams)

    def read(self) -> dict[str, Part]:
        """The parts train, validation and test; names what it read in `self._fingerprints`."""
        raise NotImplementedError

    def draw_batch(self, step: int) -> Batch:
        """Tokens, mask and labels of a step."""
        return self.examples("train", self.order.rows(step))

    def examples(self, split: str, places: Tensor) -> Batch:
        """The examples at `places` (B,) of a part."""
        part = self._part(split)
        tokens, mask = part.documents.tokens(part.rows[places], self.length, self.truncate)
        if self.mask_zero_tokens:
            mask = tokens != 0
        return tokens, mask, part.labels[places]

    def evaluation(self, split: str, batch_size: int | None = None) -> Iterator[Batch]:
        """All examples of a part in their order; the last batch may be smaller.

        Args:
            split: "validation" or "test" ("train" too, to look at overfitting).
            batch_size: examples in a batch; None takes the training batches' size.

        Raises:
            ValueError: for another part.
        """
        count = len(self._part(split).labels)
        for places in torch.arange(count).split(batch_size or self.batch_size):
            yield self.examples(split, places)

    def count(self, split: str) -> int:
        """How many examples a part has."""
        return len(self._part(split).labels)

    def majority_rate(self, split: str) -> float:
        """The share of a part's most frequent label: the accuracy of always naming it."""
        labels = self._part(split).labels
        return float(torch.bincount(labels).max()) / len(labels)

    def fingerprints(self) -> dict[str, str]:
        """The data in use: files by their content, generated data by law, seed and content."""
        return dict(self._fingerprints)

    def _part(self, split: str) -> Part:
        if split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, got {split!r}")
        if self._streams is None:
            raise RuntimeError("call prepare(streams, parents) before anything is drawn")
        return self.parts[split]

    def _must_fit(self, documents: Documents) -> None:
        longest = int(np.diff(documents.ends, prepend=0).max())
        if longest > self.truncate:
            raise ValueError(f"length must be at least {longest}, the longest, got {self.length}")


def content_fingerprint(parts: Mapping[str, Part]) -> str:
    """Twelve hex digits of the sha256 over all values, rows and labels."""
    digest = hashlib.sha256()
    for name in PARTS:
        part = parts[name]
        for values in (part.documents.values, part.documents.ends, part.rows, part.labels):
            digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()[:12]


def slices(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Consecutive row numbers for the parts, in the order train, validation, test.

    Raises:
        ValueError: for a size below 1.
    """
    rows, start = {}, 0
    for name in PARTS:
        if sizes[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {sizes[name]}")
        rows[name] = torch.arange(start, start + sizes[name])
        start += sizes[name]
    return rows
