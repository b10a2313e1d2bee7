"""Data modules whose problems are worked on one after the other: drift, and growing minibatches.

Batches are (source (1, B, 2), target (1, B, 2), problem). The clouds of shapes are in
`tasks.alignment.shapes`, groups of digits in `tasks.alignment.latents`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sextant.ranges import at_least
from tasks.alignment.clouds import ShiftedMoons, drift_source, rotated, sampled
from tasks.shared.plane import Law
from tasks.shared.stepwise import StepwiseData

Pair = tuple[Tensor, Tensor]
ProblemBatch = tuple[Tensor, Tensor, int]


class SequenceData(StepwiseData):
    """Problems worked on one after the other, `iterations_each` steps each.

    Args:
        problems: how many there are.
        batch_size: points in a batch.
        iterations_each: steps on every problem.

    Raises:
        ValueError: for less than one iteration a problem.
    """

    def __init__(self, problems: int, batch_size: int, iterations_each: int) -> None:
        at_least(1, iterations_each=iterations_each)
        super().__init__(batch_size, problems * iterations_each)
        self.problems, self.iterations_each = problems, iterations_each

    def problem(self, index: int) -> Pair:
        """The whole clouds of a problem, source (N, d) and target (N, d)."""
        raise NotImplementedError

    def checked(self, index: int) -> int:
        """The index of a problem, if there is such a problem.

        Raises:
            ValueError: if there is not.
        """
        if not 0 <= index < self.problems:
            raise ValueError(f"problem must lie in 0..{self.problems - 1}, got {index}")
        return index


class DriftData(SequenceData):
    """A pair of clouds that turns and shrinks slowly (min-STP).

    Problem p shows both base clouds turned by `t` quarter turns and scaled by 0.5 + 0.2 t, with
    t = 1 - p / (problems - 1). The base clouds are independent points of the two laws; every run
    seed has its own. Batches are whole clouds.

    Args:
        iterations_each: steps on every problem.
        problems: how many, at least 2.
        points: in each cloud.
        source: law of the source, eight Gaussians of radius 5 and variance 0.1 unless given.
        target: law of the target, noise-free moons unless given.
    """

    def __init__(
        self,
        iterations_each: int,
        problems: int = 7,
        points: int = 256,
        source: Law | None = None,
        target: Law | None = None,
    ) -> None:
        at_least(2, problems=problems)
        super().__init__(problems, points, iterations_each)
        self.points = points
        self.source = drift_source() if source is None else source
        self.target = ShiftedMoons() if target is None else target

    @property
    def base(self) -> Pair:
        """The clouds before they are turned and scaled, (points, 2) each."""
        return (
            self.source.draw(self.points, self.streams.generator("source cloud")),
            self.target.draw(self.points, self.streams.generator("target cloud")),
        )

    def problem(self, index: int) -> Pair:
        """Problem `index`: source (points, 2) and target (points, 2)."""
        time = 1 - self.checked(index) / (self.problems - 1)
        source, target = (
            (0.5 + 0.2 * time) * rotated(cloud, time * math.pi / 2) for cloud in self.base
        )
        return source, target

    def shifted(self, kind: Literal["rotation", "jitter"], amount: float) -> Pair:
        """Problem 0 after a disturbance of known size.

        Args:
            kind: `rotation` turns both clouds by `amount` degrees, `jitter` adds Gaussian noise of
                standard deviation `amount` to both. The noise of a run seed is fixed: a larger
                amount scales the same draw.
            amount: how much; a standard deviation is not negative.

        Raises:
            ValueError: for another kind, or an amount that is negative jitter or not finite.
        """
        source, target = self.problem(0)
        if not math.isfinite(amount) or (kind == "jitter" and amount < 0):
            raise ValueError(
                f"amount must be finite, and at least 0 for jitter, got {amount} of {kind}"
            )
        if kind == "rotation":
            return rotated(source, math.radians(amount)), rotated(target, math.radians(amount))
        if kind == "jitter":
            noise = torch.randn(2, self.points, 2, generator=self.streams.generator("jitter"))
            return source + amount * noise[0], target + amount * noise[1]
        raise ValueError(f"kind must be 'rotation' or 'jitter', got {kind!r}")

    def draw_batch(self, step: int) -> ProblemBatch:
        """The whole clouds (1, points, 2) of the step's problem, and its index."""
        index = step // self.iterations_each
        source, target = self.problem(index)
        return source[None], target[None], index

    def fingerprints(self) -> dict[str, str]:
        """The two laws and the law of the drift."""
        return {
            "source": repr(self.source),
            "target": repr(self.target),
            "drift": f"{self.problems} frames, t quarter turns, scale 0.5 + 0.2 t, t from 1 to 0",
        }


class BatchLadder(SequenceData):
    """One pair of clouds, learned from minibatches of growing size (min-STP).

    Problem i is the same pair for every i; its batches hold `sizes[i]` points, drawn without
    replacement and independently on both sides. Every run seed has its own clouds.

    Args:
        iterations_each: steps with every size.
        points: in each cloud.
        sizes: the batch sizes, increasing, at most `points`.
        pool_points: in each of the two larger clouds that scored batches are drawn from; at least
            the largest size. Batches that hold a large share of their clouds would look less
            biased than batches of the laws.
        source: law of the source, eight Gaussians of radius 5 and variance 0.1 unless given.
        target: law of the target, noise-free moons unless given.
    """

    def __init__(
        self,
        iterations_each: int,
        points: int = 512,
        sizes: Sequence[int] = (8, 16, 32, 64, 128, 256),
        pool_points: int = 4096,
        source: Law | None = None,
        target: Law | None = None,
    ) -> None:
        sizes = tuple(int(size) for size in sizes)
        if not sizes or sizes[0] < 1 or sorted(set(sizes)) != list(sizes):
            raise ValueError(f"sizes must be increasing whole numbers from 1, got {list(sizes)}")
        for name, available in (("points", points), ("pool_points", pool_points)):
            if available < sizes[-1]:
                raise ValueError(f"{name} must be at least {sizes[-1]}, got {available}")
        super().__init__(len(sizes), sizes[-1], iterations_each)
        self.points, self.sizes, self.pool_points = points, sizes, pool_points
        self.source = drift_source() if source is None else source
        self.target = ShiftedMoons() if target is None else target

    def problem(self, index: int) -> Pair:
        """The pair itself, source (points, 2) and target (points, 2), whatever the index."""
        self.checked(index)
        return self._drawn("cloud", self.points)

    def held_out(self) -> Pair:
        """A fresh pair of the same laws and size, which no step sees."""
        return self._drawn("held-out cloud", self.points)

    def pool(self) -> Pair:
        """A large fresh pair of the same laws, (pool_points, 2) each."""
        return self._drawn("pool", self.pool_points)

    def batches(self, index: int, count: int) -> Pair:
        """`count` scored batches of size number `index`, drawn from the pool like training batches.

        Returns:
            source (count, sizes[index], 2) and target (count, sizes[index], 2).

        Raises:
            ValueError: for a size number that is not there or a count below 1.
        """
        size = self.sizes[self.checked(index)]
        at_least(1, count=count)
        source, target = (
            sampled(
                cloud.expand(count, -1, -1), size, self.streams.generator(f"scored {side}", index)
            )
            for side, cloud in zip(("source", "target"), self.pool(), strict=True)
        )
        return source, target

    def draw_batch(self, step: int) -> ProblemBatch:
        """Points of a step, (1, B, 2) each with the B of its size number, and that number."""
        index = step // self.iterations_each
        source, target = (
            sampled(cloud[None], self.sizes[index], self.streams.generator(side, step))
            for side, cloud in zip(("source", "target"), self.problem(index), strict=True)
        )
        return source, target, index

    def fingerprints(self) -> dict[str, str]:
        """The two laws with their scales."""
        return {"source": repr(self.source), "target": repr(self.target)}

    def _drawn(self, purpose: str, points: int) -> Pair:
        return (
            self.source.draw(points, self.streams.generator(f"source {purpose}")),
            self.target.draw(points, self.streams.generator(f"target {purpose}")),
        )
