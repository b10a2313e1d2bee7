"""The exam of the Long Range Arena; `version` in a task's config counts its changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import at_least

NOT_LEARNED_WITHIN = 1.5
"""Points above the majority rate; a run that is no further above has learned nothing."""


class ArenaExam:
    """How many sequences of the whole test part a student classifies rightly.

    - `accuracy`, with its binomial standard error;
    - `majority_rate`: of the most frequent class, what naming it always would give;
    - `above_majority`: the difference of the two;
    - `learned`: 1 where that difference is more than 1.5 points, else 0; its mean over runs is the
      share of runs that learned anything;
    - `validation_accuracy` of the same weights on the whole validation part, which selected them;
    - `parameters` and `seconds_a_step`, where the student counts them (`parameter_count`,
      `seconds_a_step`): numbers learnt, and the mean time of an optimizer step.

    Accuracies and rates are in percent. Array: `confusion`, int64 (classes, classes), true classes
    down, named ones across.

    Args:
        batch_size: examples asked at a time; None takes as many as training does. The marks do not
            depend on it but for rounding.

    Raises:
        ValueError: for a batch size below 1, or logits of another shape.
        FloatingPointError: for logits that are not finite.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        if batch_size is not None:
            at_least(1, batch_size=batch_size)
        self.batch_size = batch_size

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Classifies every validation and every test example once."""
        confusion = self._confusion(student, data, "test")
        total = int(confusion.sum())
        accuracy = _accuracy(confusion)
        majority = 100 * data.majority_rate("test")
        above = accuracy.value - majority
        scores = {
            "accuracy": accuracy,
            "majority_rate": Score(majority, total, "higher"),
            "above_majority": Score(above, total, "higher", accuracy.standard_error),
            "learned": Score(float(above > NOT_LEARNED_WITHIN), total, "higher"),
            "validation_accuracy": _accuracy(self._confusion(student, data, "validation")),
        }
        if (count := getattr(student, "parameter_count", None)) is not None:
            scores["parameters"] = Score(float(count), 1, "lower")
        if (seconds := getattr(student, "seconds_a_step", None)) is not None:
            scores["seconds_a_step"] = Score(seconds, 1, "lower", timed=True)
        return Examination(scores, {"confusion": confusion.numpy()})

    def _confusion(self, student: Any, data: Any, split: str) -> Tensor:
        """How often each class (down) was given each name (across)."""
        counts = torch.zeros(data.classes**2, dtype=torch.int64)
        for tokens, mask, labels in data.evaluation(split, self.batch_size):
            logits = student.logits(tokens, mask)
            if logits.shape != (len(labels), data.classes):
                raise ValueError(
                    f"logits must be ({len(labels)}, {data.classes}), got {tuple(logits.shape)}"
                )
            if not logits.isfinite().all():
                raise FloatingPointError("logits are not finite, so the run diverged")
            places = labels * data.classes + logits.argmax(1).cpu()
            counts += torch.bincount(places, minlength=len(counts))
        return counts.view(data.classes, data.classes)


def _accuracy(confusion: Tensor) -> Score:
    total, right = int(confusion.sum()), int(confusion.diagonal().sum())
    share = right / total
    return Score(100 * share, total, "higher", 100 * math.sqrt(share * (1 - share) / total))
