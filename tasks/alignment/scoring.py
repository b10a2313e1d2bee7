"""The exams of the alignment family; `version` in a task's config counts their changes.

Students answer `match(source (N, d), target (M, d))` with a plan (see `tasks.alignment.matching`).
A student whose answer depends on how long it trained on which problem also has `iterations`, a
tuple of step counts, and `after(problem, iteration)`, which gives a student for that moment; its
scores carry the suffix `@iteration`. No score is taken from a training batch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from tasks.alignment.levels import level_grid, levels
from tasks.alignment.matching import Answer, Cost, Question, checked_cost
from tasks.shared.scoring import one_thread

REPEATS = 7  # of a timed answer, whose median counts
SCORED_DEGREES = (15, 30)
SHOWN_PAIRS = 3
CHUNK = 50


class DriftExam:
    """How far one slicer carries over a sequence of drifting problems (min-STP).

    Scores, with k from the student's `iterations`, or without suffix for a student that has none:

    - `cost_p@k`: ground cost of the plan on problem p after k steps on it;
    - `gap@k`: mean over problems 1.. of (cost - OT) / OT. Problem 0 is not part of it, because
      nothing was carried over to it;
    - `milliseconds@k`: median processor time of an answer on problem 1;
    - `rotation_15@k`, `rotation_30@k`: cost / OT, on problem 0 turned by so many degrees, of the
      student after k steps on problem 0, which never trained on what it is asked.

    Arrays: `source` (problems, N, d), `target`, `optimum` (problems,), `iterations` (K,), `cost`
    (K, problems), `partner` (K, problems, N), `rotation_degrees`, `rotation_ratio`, `jitter_std`,
    `jitter_ratio`; of a student with a `curve` also `curve` (problems, evaluations) and
    `curve_iterations`; of one with a pointwise `slicer` in the plane also `level_x`, `level_y` and
    `levels` (problems, G, G), the scores on a grid after the last iteration on each problem.
    `iterations` is empty for a student without them, and K is then 1.

    Args:
        cost: the ground cost.
        degrees: the rotations asked for; 15 and 30 among them are scored.
        jitter: the standard deviations of the noise asked for.
    """

    def __init__(
        self,
        cost: Cost = "euclidean",
        degrees: Sequence[float] = (2, 5, 10, 15, 30, 90),
        jitter: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    ) -> None:
        self.cost = checked_cost(cost)
        self.degrees, self.jitter = [float(d) for d in degrees], [float(s) for s in jitter]

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks for the plan of every problem at every number of iterations, then of shifts."""
        questions = [Question(*data.problem(p), self.cost) for p in range(data.problems)]
        iterations = tuple(getattr(student, "iterations", ()))
        examination = Examination({})
        costs, partners = [], []
        turned = {
            degrees: Question(*data.shifted("rotation", degrees), self.cost)
            for degrees in self.degrees
            if degrees in SCORED_DEGREES
        }
        n = len(questions[0].source)
        for k in iterations or (None,):
            answers = [question.ask(_moment(student, p, k)) for p, question in enumerate(questions)]
            examination.scores |= _drift_scores(questions, answers, _suffix(k))
            costs.append([answer.cost for answer in answers])
            partners.append([answer.plan.partners() for answer in answers])
            for degrees, question in turned.items():
                ratio = question.ratio(question.ask(_moment(student, 0, k)).cost)
                examination.scores[f"rotation_{degrees:g}{_suffix(k)}"] = Score(ratio, n, "lower")
            examination.scores[f"milliseconds{_suffix(k)}"] = _milliseconds(
                questions[1], _moment(student, 1, k)
            )
        last = iterations[-1] if iterations else None
        first = _moment(student, 0, last)
        shifts = {
            kind: [
                question.ratio(question.ask(first).cost)
                for question in (
                    Question(*data.shifted(kind, amount), self.cost) for amount in amounts
                )
            ]
            for kind, amounts in (("rotation", self.degrees), ("jitter", self.jitter))
        }
        examination.arrays = {
            "source": np.stack([q.source for q in questions]).astype(np.float32),
            "target": np.stack([q.target for q in questions]).astype(np.float32),
            "optimum": np.array([q.optimum for q in questions]),
            "iterations": np.array(iterations, dtype=np.int64),
            "cost": np.array(costs),
            "partner": np.array(partners),
            "rotation_degrees": np.array(self.degrees),
            "rotation_ratio": np.array(shifts["rotation"]),
            "jitter_std": np.array(self.jitter),
            "jitter_ratio": np.array(shifts["jitter"]),
        }
        if hasattr(student, "curve"):
            examination.arrays |= {
                "curve": np.asarray(student.curve.detach().cpu(), dtype=np.float64),
                "curve_iterations": np.array(student.evaluated, dtype=np.int64),
            }
        examination.arrays |= _level_arrays(student, questions, last)
        return examination


def _moment(student: Any, problem: int, iteration: int | None) -> Any:
    """The student after so many steps on a problem; itself where it knows no steps."""
    return student if iteration is None else student.after(problem, iteration)


def _suffix(at: int | None) -> str:
    return "" if at is None else f"@{at}"


def _drift_scores(
    questions: Sequence[Question], answers: Sequence[Answer], suffix: str
) -> dict[str, Score]:
    scores = {
        f"cost_{p}{suffix}": Score(answer.cost, len(questions[p].source), "lower")
        for p, answer in enumerate(answers)
    }
    gaps = [question.gap(answer.cost) for question, answer in zip(questions, answers, strict=True)]
    carried = gaps[1:]
    return scores | {f"gap{suffix}": Score(statistics.fmean(carried), len(carried), "lower")}


def _milliseconds(question: Question, student: Any) -> Score:
    """The median time of an answer on one thread, after one that is not timed."""
    with one_thread():
        question.ask(student)
        seconds = [question.ask(student).seconds for _ in range(REPEATS)]
    return Score(1000 * statistics.median(seconds), REPEATS, "lower", timed=True)


def _level_arrays(
    student: Any, questions: Sequence[Question], iteration: int | None
) -> dict[str, np.ndarray]:
    across, up = level_grid([q.source for q in questions] + [q.target for q in questions])
    fields = [
        levels(getattr(_moment(student, p, iteration), "slicer", None), across, up)
        for p in range(len(questions))
    ]
    if any(field is None for field in fields):
        return {}
    return {"level_x": across, "level_y": up, "levels": np.stack(fields)}


class PairsExam:
    """How well a student matches pairs it was and was not trained on.

    Scores, all over the pairs of `data.evaluation_pairs(split)`:

    - `train_cost`, `test_cost`: mean ground cost;
    - `train_gap`, `gap`: mean of (cost - OT) / OT on training and on test pairs;
    - `normalised`: mean over test pairs of (cost - OT) / (random - OT);
    - `milliseconds`, `exact_milliseconds`: median processor time of an answer and of exact OT
      (from points to plan, measured in this process) on a test pair, after one that is not timed;
    - `training_seconds`: of the student, 0 for one that has none;
    - `break_even`: the number of pairs after which training has paid for itself, training_seconds
      over the difference of the two times of one pair; only where the student is the faster one.

    Arrays of the first test pairs: `source` (3, N, d), `target` (3, M, d), `partner` (3, N), the
    target point that gets most of a source point, `origin` (3, M, d), the mean source point a
    target point comes from, `cost` and `optimum` (3,). All test pairs: `test_costs`,
    `test_optima`.

    Args:
        cost: the ground cost.
    """

    def __init__(self, cost: Cost = "euclidean") -> None:
        self.cost = checked_cost(cost)

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks for the plan of every pair of both splits."""
        train, test = (data.evaluation_pairs(split) for split in ("train", "test"))
        with one_thread():
            # What is imported or built on first use would count as time of the first pair.
            source, target = test[0]
            Question(source[:2], target[:2], self.cost)
            Question(source, target, self.cost).ask(student)
            train_questions, train_answers = self._asked(student, train)
            questions, answers = self._asked(student, test)
        optimum = statistics.median(question.optimum_seconds for question in questions)
        own = statistics.median(answer.seconds for answer in answers)
        training = float(getattr(student, "training_seconds", 0.0))
        n = len(questions)
        asked = list(zip(questions, answers, strict=True))
        train_asked = list(zip(train_questions, train_answers, strict=True))
        scores = {
            "train_cost": _mean([answer.cost for answer in train_answers]),
            "test_cost": _mean([answer.cost for answer in answers]),
            "train_gap": _mean([question.gap(answer.cost) for question, answer in train_asked]),
            "gap": _mean([question.gap(answer.cost) for question, answer in asked]),
            "normalised": _mean([question.normalised(answer.cost) for question, answer in asked]),
            "milliseconds": Score(1000 * own, n, "lower", timed=True),
            "exact_milliseconds": Score(1000 * optimum, n, "lower", timed=True),
            "training_seconds": Score(training, 1, "lower", timed=True),
        }
        if own < optimum:
            scores["break_even"] = Score(training / (optimum - own), n, "lower", timed=True)
        shown = asked[:SHOWN_PAIRS]
        return Examination(
            scores,
            {
                "source": np.stack([question.source for question, _ in shown]).astype(np.float32),
                "target": np.stack([question.target for question, _ in shown]).astype(np.float32),
                "partner": np.stack([answer.plan.partners() for _, answer in shown]),
                "origin": np.stack(
                    [answer.plan.origins(question.source) for question, answer in shown]
                ),
                "cost": np.array([answer.cost for _, answer in shown]),
                "optimum": np.array([question.optimum for question, _ in shown]),
                "test_costs": np.array([answer.cost for answer in answers]),
                "test_optima": np.array([question.optimum for question in questions]),
            },
        )

    def _asked(
        self, student: Any, pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[list[Question], list[Answer]]:
        questions = [Question(source, target, self.cost) for source, target in pairs]
        return questions, [question.ask(student) for question in questions]


class ChamferExam:
    """How well an autoencoder gives test clouds back.

    Score `chamfer`: mean over clouds of the mean squared distance from a point of the cloud to the
    nearest rebuilt point plus the mean squared distance the other way round. Arrays `clouds` and
    `rebuilt`, the first three.
    """

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Encodes and decodes every test cloud."""
        clouds = data.evaluation_clouds()
        with torch.no_grad():
            rebuilt = torch.cat(
                [student.decode(student.encode(rows)).float().cpu() for rows in clouds.split(CHUNK)]
            )
        if len(rebuilt) != len(clouds) or rebuilt.shape[2:] != clouds.shape[2:]:
            raise ValueError(
                f"decode must return shape ({len(clouds)}, points, {clouds.shape[2]}), got "
                f"{tuple(rebuilt.shape)}"
            )
        if not torch.isfinite(rebuilt).all():
            raise FloatingPointError("rebuilt clouds are not finite, so the run diverged")
        distances = [
            chamfer(one, other)
            for one, other in zip(clouds.double().numpy(), rebuilt.double().numpy(), strict=True)
        ]
        arrays = {"clouds": clouds[:SHOWN_PAIRS].numpy(), "rebuilt": rebuilt[:SHOWN_PAIRS].numpy()}
        return Examination({"chamfer": _mean(distances)}, arrays)


def chamfer(one: np.ndarray, other: np.ndarray) -> float:
    """Sum of the two mean squared nearest distances between clouds (n, d) and (m, d)."""
    from scipy.spatial import cKDTree

    there, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
    return float((there**2).mean() + (back**2).mean())


def _mean(values: Sequence[float]) -> Score:
    """The mean of one value a pair with its standard error (none for one pair)."""
    n = len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Score(statistics.fmean(values), n, "lower", error)
