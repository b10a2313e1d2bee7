"""The exam of converted models; `version` in a task's config counts its changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from sextant.contracts import Examination, Parent, Score, Streams

Metric = Literal["accuracy", "matthews", "f1", "pearson_spearman"]


def measure(metric: Metric, scores: np.ndarray, labels: np.ndarray) -> float:
    """A GLUE metric, times 100, by scikit-learn and scipy.

    Args:
        metric: accuracy, Matthews correlation, F1 of class 1, or the mean of Pearson's and
            Spearman's correlation (ranks of ties are averaged; 0 where a side is constant).
        scores: (n, classes), or (n, 1) for numbers.
        labels: (n,).
    """
    from scipy import stats
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if metric == "pearson_spearman":
        numbers = scores[:, 0].astype(np.float64)
        if np.ptp(numbers) == 0 or np.ptp(labels) == 0:
            return 0.0
        linear, ranked = stats.pearsonr(numbers, labels), stats.spearmanr(numbers, labels)
        return 50.0 * float(linear.statistic + ranked.statistic)
    named = scores.argmax(1)
    if metric == "matthews":
        return 100.0 * float(matthews_corrcoef(labels, named))
    if metric == "f1":
        return 100.0 * float(f1_score(labels, named, zero_division=0.0))
    return 100.0 * float(accuracy_score(labels, named))


def area(steps: list[int], values: list[float]) -> float:
    """The mean height of the broken line through (steps, values), by the trapezoidal rule."""
    width = steps[-1] - steps[0]
    return float(np.trapezoid(values, steps) / width) if width else float(values[-1])


class ConversionExam:
    """How well a model does a task after it was converted, and on the way there.

    - `score`: the task's metric on the whole test part, x 100; `standard_error` for accuracy;
    - `recovered`: the score in percent of the fine-tuned parent's on the same part, where there is
      a parent whose score is above 0;
    - `curve_area`: the mean height of the budget curve on the watched rows of the test part, for
      students that have one; `unrecovered`: its first point, before any step.

    Arrays: `curve_steps`, `curve_scores`; `rows_softmax` and `rows_converted` (layers, H, N, M) of
    the first test example.

    Args:
        metric: see `measure`.

    Raises:
        ValueError: for an unknown metric, or scores of another shape.
        FloatingPointError: for scores that are not finite.
    """

    def __init__(self, metric: Metric) -> None:
        if metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {get_args(Metric)}, got {metric!r}")
        self.metric: Metric = metric

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks for every test example once, the parent too."""
        inputs, labels = data.examples("test")
        value, count = self._score(student, inputs, labels, data.outputs), len(labels)
        scores = {"score": Score(value, count, "higher", self._error(value, count))}
        arrays: dict[str, np.ndarray] = {}
        if "finetuned" in parents:
            base = self._score(parents["finetuned"].load(), inputs, labels, data.outputs)
            if base > 0:
                scores["recovered"] = Score(100 * value / base, count, "higher")
        if hasattr(student, "budget_curve"):
            steps, heights = student.budget_curve()
            watched = data.watched_count
            scores["curve_area"] = Score(area(steps, heights), watched, "higher")
            scores["unrecovered"] = Score(heights[0], watched, "higher")
            arrays |= {"curve_steps": np.array(steps), "curve_scores": np.array(heights)}
        if hasattr(student, "rows"):
            softmax, converted = student.rows({name: part[:1] for name, part in inputs.items()})
            arrays["rows_softmax"], arrays["rows_converted"] = softmax.numpy(), converted.numpy()
        return Examination(scores, arrays)

    def _score(self, student: Any, inputs: Any, labels: Any, outputs: int) -> float:
        found = student.scores(inputs).numpy()
        if found.shape != (len(labels), outputs):
            raise ValueError(f"scores must be ({len(labels)}, {outputs}), got {found.shape}")
        if not np.isfinite(found).all():
            raise FloatingPointError("scores are not finite, so the run diverged")
        return measure(self.metric, found, labels.numpy())

    def _error(self, value: float, count: int) -> float | None:
        if self.metric != "accuracy":
            return None
        share = value / 100
        return 100 * math.sqrt(share * (1 - share) / count)
