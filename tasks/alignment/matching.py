"""Questions to a student that matches two clouds, and what may count as an answer.

An answer is a plan: any object with `source_index` (E,), `target_index` (E,) and `mass` (E,). It is
taken apart here, checked against uniform marginals and priced in float64 by this package's own
costs, so a student cannot look cheaper than it is.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

Cost = Literal["euclidean", "sqeuclidean"]
MISPLACED_MASS = 1e-5  # of a whole of 1, what rounding in float32 may leave
BELOW_OPTIMUM = 1e-6  # relative to an optimum above 1

# Every run of a task asks about the same pairs, and a process carries out many runs.
_SOLVED: dict[bytes, tuple[float, float, float]] = {}


@dataclass(frozen=True)
class Plan:
    """A checked plan between N and M points; its mass sums to 1.

    Args:
        source_index: int64 (E,), 0..N-1.
        target_index: int64 (E,), 0..M-1.
        mass: float64 (E,), not negative.
        shape: (N, M).
    """

    source_index: np.ndarray
    target_index: np.ndarray
    mass: np.ndarray
    shape: tuple[int, int]

    def cost(self, source: np.ndarray, target: np.ndarray, cost: Cost) -> float:
        """The mean ground cost over the mass, between source (N, d) and target (M, d)."""
        steps = source[self.source_index] - target[self.target_index]
        squares = np.einsum("ed,ed->e", steps, steps)
        return float(self.mass @ (squares if cost == "sqeuclidean" else np.sqrt(squares)))

    def partners(self) -> np.ndarray:
        """For every source point the target point that gets most of its mass, int32 (N,)."""
        partners = np.zeros(self.shape[0], dtype=np.int32)
        order = np.argsort(self.mass, kind="stable")
        # The last assignment to a place stays, and it is that of the largest mass.
        partners[self.source_index[order]] = self.target_index[order]
        return partners

    def origins(self, source: np.ndarray) -> np.ndarray:
        """For every target point the mean of the source points (N, d) sent to it, (M, d)."""
        carried = np.zeros((self.shape[1], source.shape[1]))
        np.add.at(carried, self.target_index, self.mass[:, None] * source[self.source_index])
        arrived = np.bincount(self.target_index, self.mass, minlength=self.shape[1])
        return (carried / arrived[:, None]).astype(np.float32)


def checked_plan(plan: Any, n: int, m: int) -> Plan:
    """The plan of a student, if it is one between n and m points of equal weight.

    Raises:
        ValueError: for entries that do not fit together, lie outside the clouds or are negative,
            and for marginals that differ from 1/n and 1/m by more than 1e-5 of the whole mass.
        FloatingPointError: for mass that is not finite.
    """
    parts = [torch.as_tensor(getattr(plan, name)) for name in ("source_index", "target_index")]
    mass = torch.as_tensor(plan.mass).detach().cpu().double().numpy()
    if any(part.is_floating_point() for part in parts):
        raise ValueError("source_index and target_index must hold whole numbers")
    rows, columns = (part.detach().cpu().long().numpy() for part in parts)
    if mass.ndim != 1 or not mass.shape == rows.shape == columns.shape or not len(mass):
        raise ValueError(
            "source_index, target_index and mass must be as long as each other, one number an "
            f"entry, got shapes {rows.shape}, {columns.shape} and {mass.shape}"
        )
    for name, index, size in (("source_index", rows, n), ("target_index", columns, m)):
        if index.min() < 0 or index.max() >= size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {index.min()}..{index.max()}")
    if not np.isfinite(mass).all():
        raise FloatingPointError("mass of the plan is not finite, so the run diverged")
    if mass.min() < 0:
        raise ValueError(f"mass must not be negative, got {mass.min()}")
    for name, index, size in (("source", rows, n), ("target", columns, m)):
        marginal = np.bincount(index, mass, minlength=size)
        misplaced = float(np.abs(marginal - 1 / size).sum())
        if misplaced > MISPLACED_MASS:
            raise ValueError(
                f"mass must give every {name} point 1/{size}, but {misplaced:.2g} of it is "
                "misplaced"
            )
    # Rounding of the whole mass would count as a lower or higher cost.
    return Plan(rows, columns, mass / mass.sum(), (n, m))


@dataclass(frozen=True)
class Answer:
    """What a student answered: the plan, its ground cost and the seconds it took."""

    plan: Plan
    cost: float
    seconds: float


class Question:
    """Two clouds to match, and the best and the average answer.

    Attributes:
        source: float64 (N, d).
        target: float64 (M, d).
        optimum: the cost of the exact plan.
        optimum_seconds: what it took, from points to plan, when this process solved it first.
        random: the mean cost of a uniformly random matching, the mean of the cost matrix.

    Args:
        source: (N, d).
        target: (M, d).
        cost: the ground cost.

    Raises:
        ValueError: for clouds that are empty, not finite or of different dimensions, or an unknown
            cost.
    """

    def __init__(self, source: Tensor, target: Tensor, cost: Cost) -> None:
        if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
            raise ValueError(
                "source and target must be (N, d) and (M, d), got "
                f"{tuple(source.shape)} and {tuple(target.shape)}"
            )
        self._asked = (source, target)
        self.source, self.target = source.double().numpy(), target.double().numpy()
        if not (np.isfinite(self.source).all() and np.isfinite(self.target).all()):
            raise ValueError("source and target must hold finite values only")
        self.cost = checked_cost(cost)
        digest = hashlib.sha256(repr((cost, self.source.shape, self.target.shape)).encode())
        digest.update(np.ascontiguousarray(self.source))
        digest.update(np.ascontiguousarray(self.target))
        found = _SOLVED.get(digest.digest())
        if found is None:
            started = seconds_now()
            optimum, mean = _optimum_and_mean(self.source, self.target, cost)
            found = _SOLVED[digest.digest()] = optimum, mean, seconds_now() - started
        self.optimum, self.random, self.optimum_seconds = found

    def ask(self, student: Any) -> Answer:
        """The student's plan, checked, and its cost.

        Raises:
            ValueError: for what is no plan between the clouds, or costs less than the optimum.
            FloatingPointError: for mass that is not finite.
        """
        # Copies, so that a student that writes into its input does not change the question.
        source, target = (cloud.clone() for cloud in self._asked)
        started = seconds_now()
        plan = student.match(source, target)
        seconds = seconds_now() - started
        plan = checked_plan(plan, len(self.source), len(self.target))
        price = plan.cost(self.source, self.target, self.cost)
        if price < self.optimum - BELOW_OPTIMUM * max(1.0, self.optimum):
            raise ValueError(f"cost {price} is below the optimum {self.optimum}")
        # Another order of summation may leave the exact plan one rounding error below itself.
        return Answer(plan, max(price, self.optimum), seconds)

    def gap(self, price: float) -> float:
        """How far a cost lies above the optimum, relative to the optimum."""
        return (price - self._positive_optimum()) / self.optimum

    def ratio(self, price: float) -> float:
        """A cost as a multiple of the optimum."""
        return price / self._positive_optimum()

    def normalised(self, price: float) -> float:
        """0 for the optimum, 1 for a random matching."""
        if self.random <= self.optimum:
            raise ValueError("source and target must not be equally far apart in every matching")
        return (price - self.optimum) / (self.random - self.optimum)

    def _positive_optimum(self) -> float:
        if self.optimum <= 0:
            raise ValueError("source and target must differ: their optimum is 0")
        return self.optimum


def checked_cost(cost: str) -> Cost:
    """The name of a ground cost.

    Raises:
        ValueError: for another name.
    """
    if cost not in get_args(Cost):
        raise ValueError(f"cost must be one of {', '.join(get_args(Cost))}, got {cost!r}")
    return cost


def _optimum_and_mean(source: np.ndarray, target: np.ndarray, cost: Cost) -> tuple[float, float]:
    """The cost of the exact plan, by POT's network simplex, and the mean of the cost matrix."""
    # Imported late: POT loads every array library it finds.
    import ot
    from scipy.spatial.distance import cdist

    costs = cdist(source, target, cost)
    value, log = ot.emd2([], [], costs, numItermax=10_000_000, log=True, numThreads=1)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport was not solved: {log['warning']}")
    return float(value), float(costs.mean())


def seconds_now() -> float:
    """Processor seconds of this process, which other work on the machine does not lengthen; where a
    GPU is in use, seconds on the clock, read when it has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
