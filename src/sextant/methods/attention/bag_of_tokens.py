"""The answer that knows no order: what a sequence model must beat to have used any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.ranges import at_least

ITERATIONS = 1000
"""Of the solver at most; it ends long before."""
READ_AT_ONCE = 1000
ABSENT = -1e6
"""The score of a class that no training example has."""


class BagOfTokens:
    """Multinomial logistic regression on how often each token occurs.

    Of a pair of documents it sees the counts of both and their absolute differences. Every count is
    divided by the largest of its token among the training examples. The strength of the penalty is
    the one of the best accuracy on the validation part, the strongest of equals; the test part is
    never looked at.

    O(examples vocabulary) memory, and that times the solver's iterations in time.

    Args:
        examples: how many training examples are used, drawn from the stream "bag of tokens"; all
            where there are no more.
        inverse_penalties: among what is chosen; the smallest is the strongest penalty.

    Raises:
        ValueError: for no examples, or penalties that are missing or not positive.
    """

    def __init__(
        self,
        examples: int = 25000,
        inverse_penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    ) -> None:
        at_least(1, examples=examples)
        if not inverse_penalties or min(inverse_penalties) <= 0:
            raise ValueError(
                f"inverse_penalties must be positive numbers, got {list(inverse_penalties)}"
            )
        self.examples, self.inverse_penalties = examples, sorted(inverse_penalties)
        self.vocabulary = self.classes = 0
        self.scale = np.zeros(0, np.float32)
        self.regression: LogisticRegression | None = None

    @property
    def parameter_count(self) -> int:
        """Numbers that are learnt, those of tokens that never occur left out."""
        if self.regression is None:
            return 0
        columns = int((self.scale > 0).sum())
        return len(self.regression.intercept_) * (columns + 1)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Fits the training examples, once for every penalty."""
        self.vocabulary, self.classes = data.vocabulary, data.classes
        places = torch.randperm(data.count("train"), generator=streams.generator("bag of tokens"))
        batches = (
            data.examples("train", some)
            for some in places[: self.examples].sort().values.split(READ_AT_ONCE)
        )
        counts, labels = self._read(batches)
        self.scale = counts.max(0)
        counts = self._scaled(counts)
        held_counts, held_labels = self._read(data.evaluation("validation", READ_AT_ONCE))
        held_counts = self._scaled(held_counts)
        best = -1.0
        for strength in self.inverse_penalties:
            regression = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(counts, labels)
            accuracy = regression.score(held_counts, held_labels)
            if accuracy > best:
                best, self.regression = accuracy, regression

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores (B, classes), float32.

        Args:
            tokens: int64 (B, N), or (B, 2, N) for pairs of documents.
            mask: bool of that shape, True for a real token; None where all are real.

        Raises:
            RuntimeError: before `prepare`.
        """
        if self.regression is None:
            raise RuntimeError("call prepare(streams, parents, data) before anything is asked")
        counts = token_counts(tokens, mask, self.vocabulary).numpy()
        scores = torch.from_numpy(self.regression.decision_function(self._scaled(counts))).float()
        if scores.ndim == 1:  # of two classes sklearn scores the second alone
            scores = torch.stack((torch.zeros_like(scores), scores), 1)
        found = torch.full((len(tokens), self.classes), ABSENT)
        found[:, torch.from_numpy(self.regression.classes_)] = scores
        return found

    def _read(self, batches: Any) -> tuple[np.ndarray, np.ndarray]:
        counts, labels = [], []
        for tokens, mask, some in batches:
            counts.append(token_counts(tokens, mask, self.vocabulary))
            labels.append(some)
        return torch.cat(counts).numpy(), torch.cat(labels).numpy()

    def _scaled(self, counts: np.ndarray) -> np.ndarray:
        """The counts of tokens that training examples have, as shares of the largest there."""
        seen = self.scale > 0
        return counts[:, seen] / self.scale[seen]


def token_counts(tokens: Tensor, mask: Tensor | None, vocabulary: int) -> Tensor:
    """How often each token occurs, float32 (B, V), of tokens (B, N).

    Of pairs (B, 2, N) the counts of the first, of the second and their absolute difference side by
    side: (B, 3 V). The mask is True for a token that counts; None counts all.
    """
    weights = torch.ones(tokens.shape) if mask is None else mask.float()
    counts = torch.zeros(*tokens.shape[:-1], vocabulary).scatter_add_(-1, tokens, weights)
    if counts.ndim == 2:
        return counts
    first, second = counts.unbind(1)
    return torch.cat((first, second, (first - second).abs()), 1)
