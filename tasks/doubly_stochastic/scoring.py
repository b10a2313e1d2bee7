"""The exam of attention on pictures; `version` in a task's config counts its changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sextant.contracts import Better, Examination, Parent, Score, Streams

SPECIMEN = 32
"""Test pictures whose attention is looked at."""
TOWARDS: dict[str, Better] = {
    "row_defect": "lower",
    "column_defect": "lower",
    "entropy": "higher",
    "effective_slices": "higher",
    "relative_temperature": "lower",
}


class PictureExam:
    """How many pictures of the whole test part a student classifies rightly, and how it attends.

    - `accuracy` and `validation_accuracy`, in percent, with binomial standard errors;
    - what a student says of its attention on a few test pictures (`diagnostics`), mean over layers:
      the largest `row_defect` and `column_defect` of a doubly stochastic matrix, the `entropy` of
      its rows as a share of the largest there can be, `effective_slices`, `relative_temperature`;
    - `parameters` and `seconds_a_step`, where the student counts them.

    Arrays: `confusion`, int64 (classes, classes), true classes down; and of students that show it
    (`attention_rows`) `attention`, float32 (layers, heads, N, N), with `specimen`, the picture it
    belongs to, the first that is tested.

    Raises:
        ValueError: for logits of another shape.
        FloatingPointError: for logits that are not finite.
    """

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Classifies every validation and every test picture once."""
        confusion = self._confusion(student, data, "test")
        scores = {
            "accuracy": accuracy(confusion),
            "validation_accuracy": accuracy(self._confusion(student, data, "validation")),
        }
        arrays = {"confusion": confusion}
        inputs, _ = data.examples("test")
        if (look := getattr(student, "diagnostics", None)) is not None:
            for name, value in look(inputs[:SPECIMEN]).items():
                scores[name] = Score(value, min(SPECIMEN, len(inputs)), TOWARDS[name])
        if (show := getattr(student, "attention_rows", None)) is not None:
            arrays["attention"] = show(inputs[:1])[:, 0].float().cpu().numpy()
            arrays["specimen"] = inputs[0].float().cpu().numpy()
        if (count := getattr(student, "parameter_count", None)) is not None:
            scores["parameters"] = Score(float(count), 1, "lower")
        if (seconds := getattr(student, "seconds_a_step", None)) is not None:
            scores["seconds_a_step"] = Score(seconds, 1, "lower", timed=True)
        return Examination(scores, arrays)

    def _confusion(self, student: Any, data: Any, part: str) -> np.ndarray:
        """How often each class (down) was given each name (across)."""
        inputs, labels = data.examples(part)
        logits = student.logits(inputs)
        if logits.shape != (len(labels), data.classes):
            raise ValueError(
                f"logits must be ({len(labels)}, {data.classes}), got {tuple(logits.shape)}"
            )
        if not logits.isfinite().all():
            raise FloatingPointError("logits are not finite, so the run diverged")
        places = labels * data.classes + logits.argmax(1).cpu()
        counts = torch.bincount(places, minlength=data.classes**2)
        return counts.view(data.classes, data.classes).numpy()


def accuracy(confusion: np.ndarray) -> Score:
    """Percent of what is on the diagonal."""
    total, right = int(confusion.sum()), int(confusion.trace())
    share = right / total
    return Score(100 * share, total, "higher", 100 * math.sqrt(share * (1 - share) / total))
