"""The exam about one pair of clouds: what an optimised plan costs beside the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sextant.contracts import Examination, Parent, Score, Streams
from tasks.alignment.matching import Cost, Question, checked_cost


class SinglePairExam:
    """Score `ratio`: cost / OT of the plan on problem 0 of the data module.

    A student that knows steps answers as it was after the last of its `iterations` there. Each of
    them is scored with the suffix `@iteration` too.

    Args:
        cost: the ground cost.
    """

    def __init__(self, cost: Cost = "euclidean") -> None:
        self.cost = checked_cost(cost)

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks for the plan of the one pair."""
        question = Question(*data.problem(0), self.cost)
        n = len(question.source)
        iterations = tuple(getattr(student, "iterations", ()))
        if not iterations:
            ratio = question.ratio(question.ask(student).cost)
            return Examination({"ratio": Score(ratio, n, "lower")})
        scores = {
            f"ratio@{k}": Score(question.ratio(question.ask(student.after(0, k)).cost), n, "lower")
            for k in iterations
        }
        return Examination(scores | {"ratio": scores[f"ratio@{iterations[-1]}"]})
