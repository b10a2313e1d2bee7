"""The exam about minibatches: what a slicer loses when it learns from few points at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import at_least
from tasks.alignment.matching import Cost, Question, checked_cost, checked_plan

ROOT = -0.5  # the exponent of a bias that falls with the root of the size


class LadderExam:
    """Cost against minibatch size (min-STP).

    Scores for every size B, with the suffix `@B`, of the student as the steps with B left it:

    - `cost`: ground cost of the plan on the whole pair;
    - `held_out`: on a fresh pair of the same laws;
    - `batch_optimum`: mean exact cost of batches of B points, a property of the data alone;
    - `bias`: of ONE fixed student, the one trained with the largest B: mean cost of its plans on
      batches of B points minus the cost of its plan on the large pool they are drawn from.

    With the suffix of the largest size, whose student it describes: `slope`, the least-squares
    slope of log bias against log B over the sizes up to `largest_fitted`, and `slope_distance`, how
    far it lies from -1/2, both with the slope's standard error. They are left out where a bias is
    not positive or fewer than three sizes remain. A student without `iterations` is asked once for
    `cost` and `held_out`, without suffix, and for nothing else.

    Arrays: `sizes`, `cost`, `held_out`, `batch_optimum`, `batch_optimum_error`, `bias`,
    `bias_error` (all (S,)), `optimum`, `held_out_optimum`, and `fit`, intercept and slope of the
    line.

    Args:
        cost: the ground cost.
        batches: how many batches of every size are averaged, at least 2.
        largest_fitted: the largest size in the fit; beyond it batches begin to exhaust the pool.
    """

    def __init__(
        self, cost: Cost = "euclidean", batches: int = 200, largest_fitted: int = 128
    ) -> None:
        at_least(2, batches=batches)
        self.cost, self.batches = checked_cost(cost), batches
        self.largest_fitted = largest_fitted

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks the student of every size for the whole pairs, and the last one for batches."""
        whole = Question(*data.problem(0), self.cost)
        held_out = Question(*data.held_out(), self.cost)
        optima = {"optimum": whole.optimum, "held_out_optimum": held_out.optimum}
        arrays = {name: np.array(value) for name, value in optima.items()}
        if not getattr(student, "iterations", ()):
            answers = {"cost": whole.ask(student).cost, "held_out": held_out.ask(student).cost}
            n = len(whole.source)
            scores = {name: Score(value, n, "lower") for name, value in answers.items()}
            return Examination(scores, arrays | {k: np.array([v]) for k, v in answers.items()})
        last = student.iterations[-1]
        fixed = student.after(len(data.sizes) - 1, last)
        pool = self._price(fixed, *data.pool())
        examination = Examination({}, arrays)
        columns: dict[str, list[float]] = {}
        for index, size in enumerate(data.sizes):
            trained = student.after(index, last)
            questions = [
                Question(source, target, self.cost)
                for source, target in zip(*data.batches(index, self.batches), strict=True)
            ]
            optimum = _mean([question.optimum for question in questions])
            asked = _mean([question.ask(fixed).cost for question in questions])
            n = len(whole.source)
            scores = {
                "cost": Score(whole.ask(trained).cost, n, "lower"),
                "held_out": Score(held_out.ask(trained).cost, n, "lower"),
                "batch_optimum": optimum,
                "bias": Score(asked.value - pool, asked.n, "lower", asked.standard_error),
            }
            for name, score in scores.items():
                examination.scores[f"{name}@{size}"] = score
                columns.setdefault(name, []).append(score.value)
                if score.standard_error is not None:
                    columns.setdefault(f"{name}_error", []).append(score.standard_error)
        examination.arrays["sizes"] = np.array(data.sizes)
        examination.arrays |= {name: np.array(values) for name, values in columns.items()}
        fitted = [size for size in data.sizes if size <= self.largest_fitted]
        fit = power_law(fitted, columns["bias"][: len(fitted)])
        if fit is not None:
            intercept, slope, error = fit
            for name, value in (("slope", slope), ("slope_distance", abs(slope - ROOT))):
                score = Score(value, len(fitted), "lower", error)
                examination.scores[f"{name}@{data.sizes[-1]}"] = score
            examination.arrays["fit"] = np.array([intercept, slope])
        return examination

    def _price(self, student: Any, source: Any, target: Any) -> float:
        """The cost of a plan where the exact one would take too long to be a bound."""
        plan = checked_plan(student.match(source, target), len(source), len(target))
        return plan.cost(source.double().numpy(), target.double().numpy(), self.cost)


def power_law(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float] | None:
    """Intercept, slope and the slope's standard error of log value against log size.

    Ordinary least squares with n - 2 degrees of freedom; None for fewer than three sizes or a
    value that is not positive.
    """
    if len(sizes) < 3 or min(values) <= 0:
        return None
    x, y = np.log(sizes), np.log(values)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    intercept = float(y.mean() - slope * x.mean())
    residual = float(((y - intercept - slope * x) ** 2).sum())
    return intercept, slope, math.sqrt(residual / (len(x) - 2) / spread)


def _mean(values: Sequence[float]) -> Score:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Score(statistics.fmean(values), len(values), "lower", error)
