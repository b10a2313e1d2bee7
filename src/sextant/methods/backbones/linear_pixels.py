"""Logistic regression on raw numbers: what a network must beat to have learned features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sextant.contracts import Parent, Streams

ITERATIONS = 300
"""Of the solver at most; what is left then does not matter for accuracy."""
ABSENT = -1e6
"""The score of a class that no training example has."""


class LinearPixels:
    """Multinomial logistic regression on the pixels, or other numbers, of an input.

    The penalty is the one of the best accuracy on the validation part, the strongest of equals.

    Args:
        examples: how many training examples are used, drawn from the stream "linear pixels".
        inverse_penalties: among what is chosen; the smallest is the strongest penalty.

    Raises:
        ValueError: for no examples, or penalties that are missing or not positive.
    """

    def __init__(
        self, examples: int = 10000, inverse_penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)
    ) -> None:
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        if not inverse_penalties or min(inverse_penalties) <= 0:
            raise ValueError(
                f"inverse_penalties must be positive numbers, got {list(inverse_penalties)}"
            )
        self.examples, self.inverse_penalties = examples, sorted(inverse_penalties)
        self.classes = 0
        self.regression: LogisticRegression | None = None

    @property
    def parameter_count(self) -> int:
        """Numbers that are learnt."""
        return 0 if self.regression is None else self.regression.coef_.size + self.classes

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Fits the training examples, once for every penalty."""
        self.classes = data.classes
        inputs, labels = data.examples("train")
        order = torch.randperm(len(labels), generator=streams.generator("linear pixels"))
        chosen = order[: self.examples]
        inputs, labels = inputs[chosen].flatten(1).double().numpy(), labels[chosen].numpy()
        held, held_labels = data.examples("validation")
        held, held_labels = held.flatten(1).double().numpy(), held_labels.numpy()
        best = -1.0
        for strength in self.inverse_penalties:
            regression = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(inputs, labels)
            accuracy = regression.score(held, held_labels)
            if accuracy > best:
                best, self.regression = accuracy, regression

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to class scores (n, classes).

        Raises:
            RuntimeError: before `prepare`.
        """
        if self.regression is None:
            raise RuntimeError("call prepare(streams, parents, data) before anything is asked")
        scores = self.regression.decision_function(inputs.flatten(1).double().numpy())
        scores = torch.from_numpy(scores).float()
        if scores.ndim == 1:  # of two classes sklearn scores the second alone
            scores = torch.stack((torch.zeros_like(scores), scores), 1)
        found = torch.full((len(inputs), self.classes), ABSENT)
        found[:, torch.from_numpy(self.regression.classes_)] = scores
        return found
