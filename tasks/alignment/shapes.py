"""Data modules of ModelNet10 clouds: class onto class, Gaussian onto shape, and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.data import locate
from tasks.alignment.clouds import SHAPE_POINTS, Shapes, SideStreams, read_shapes, sampled
from tasks.shared.mnist import stratified
from tasks.shared.plane import StandardNormal
from tasks.shared.stepwise import EpochOrder, StepwiseData

Pair = tuple[Tensor, Tensor]
Split = Literal["train", "test"]


class ShapeData(StepwiseData):
    """What the modules of this file share: the files and the number of points a step sees.

    Args:
        batch_size: clouds, or pairs of clouds, in a step.
        steps: batches of a run.
        points: of every cloud, drawn afresh in every step.

    Raises:
        ValueError: for a number of points outside 1..1024.
    """

    def __init__(self, batch_size: int, steps: int, points: int) -> None:
        super().__init__(batch_size, steps)
        self.points = _within("points", points)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Finds and reads the shapes."""
        super().prepare(streams, parents)
        self.folder = locate("modelnet10")
        train, test = read_shapes(self.folder)
        self.splits: dict[str, Shapes] = {"train": train, "test": test}

    def split(self, name: str) -> Shapes:
        """The shapes of the official split `name`.

        Raises:
            ValueError: for another name than train or test.
        """
        if name not in self.splits:
            raise ValueError(f"split must be 'train' or 'test', got {name!r}")
        return self.splits[name]

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of the files."""
        return {"modelnet10": self.folder.fingerprint}


class CloudPairs(ShapeData):
    """Clouds of one class onto clouds of another (min-STP).

    Batches (source (P, train_points, 3), target (P, train_points, 3)) of training shapes. Every
    epoch of a class visits all its shapes once, in an order of its own, so the pairing is new in
    every epoch. The exam pairs the i-th shape of one class with the i-th of the other.

    Args:
        source_class: a class of ModelNet10.
        target_class: another one.
        pairs_per_step: P.
        steps: batches of a run.
        train_points: of each cloud in a step, drawn afresh without replacement.
        evaluation_pairs: how many pairs of each split the exam uses, the first ones; None, or more
            than the smaller class has, uses as many as that has.
        evaluation_points: of each cloud in the exam, fixed for every pair; None uses all 1,024.
        evaluation_seed: fixes them.
    """

    def __init__(
        self,
        source_class: str,
        target_class: str,
        pairs_per_step: int,
        steps: int,
        train_points: int = 256,
        evaluation_pairs: int | None = None,
        evaluation_points: int | None = None,
        evaluation_seed: int = 2511,
    ) -> None:
        _count("pairs_per_step", pairs_per_step)
        super().__init__(pairs_per_step, steps, train_points)
        if source_class == target_class:
            raise ValueError(f"target_class must differ from source_class, got {target_class!r}")
        self.source_class, self.target_class = source_class, target_class
        self.evaluation_count = _count("evaluation_pairs", evaluation_pairs)
        self.evaluation_points = _within("evaluation_points", evaluation_points or SHAPE_POINTS)
        self.evaluation_seed = evaluation_seed

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the shapes and keeps the two classes."""
        super().prepare(streams, parents)
        train = self.split("train")
        self.sides = (train.of_class(self.source_class), train.of_class(self.target_class))
        smallest = min(map(len, self.sides))
        if self.batch_size > smallest:
            raise ValueError(
                f"pairs_per_step must be at most the {smallest} shapes of the smaller class, "
                f"got {self.batch_size}"
            )
        self.orders = tuple(
            EpochOrder(len(clouds), self.batch_size, SideStreams(streams, side))
            for side, clouds in zip(("source", "target"), self.sides, strict=True)
        )

    def draw_batch(self, step: int) -> Pair:
        """Source and target clouds of a step, (P, train_points, 3) each."""
        source, target = (
            sampled(
                clouds[order.rows(step)],
                self.points,
                self.streams.generator(f"{side} points", step),
            )
            for side, clouds, order in zip(
                ("source", "target"), self.sides, self.orders, strict=True
            )
        )
        return source, target

    def evaluation_pairs(self, split: Split) -> list[Pair]:
        """The first pairs of a split, (evaluation_points, 3) each.

        Raises:
            ValueError: for another split.
        """
        shapes = self.split(split)
        source, target = (
            shapes.of_class(name)[: self.evaluation_count]
            for name in (self.source_class, self.target_class)
        )
        count = min(len(source), len(target))
        source, target = (
            _fixed_points(clouds[:count], self.evaluation_points, self.evaluation_seed, purpose)
            for clouds, purpose in ((source, f"{split} source"), (target, f"{split} target"))
        )
        return list(zip(source, target, strict=True))


class GaussianToShapes(ShapeData):
    """N(0, I) onto shapes of all classes (min-STP).

    Batches (source (P, train_points, 3), target (P, train_points, 3)): the noise is new in every
    step, the shapes are training shapes, each once an epoch. In the exam the noise of a pair
    depends on `evaluation_seed` and the pair alone, so every run answers the same questions,
    and every class has as many pairs as the others, up to one.

    Args:
        pairs_per_step: P.
        steps: batches of a run.
        train_points: of each cloud in a step.
        evaluation_pairs: how many pairs of each split the exam uses.
        evaluation_points: of each cloud in the exam; None uses 1,024.
        evaluation_seed: fixes the noise and the points.
    """

    def __init__(
        self,
        pairs_per_step: int,
        steps: int,
        train_points: int = 256,
        evaluation_pairs: int = 100,
        evaluation_points: int | None = None,
        evaluation_seed: int = 2511,
    ) -> None:
        _count("pairs_per_step", pairs_per_step)
        super().__init__(pairs_per_step, steps, train_points)
        self.evaluation_count = _count("evaluation_pairs", evaluation_pairs)
        self.evaluation_points = _within("evaluation_points", evaluation_points or SHAPE_POINTS)
        self.evaluation_seed = evaluation_seed
        self.source = StandardNormal(3)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the shapes."""
        super().prepare(streams, parents)
        self.order = EpochOrder(len(self.split("train").labels), self.batch_size, streams)

    def draw_batch(self, step: int) -> Pair:
        """Noise and shapes of a step, (P, train_points, 3) each."""
        clouds = self.split("train").clouds[self.order.rows(step)]
        noise = self.source.draw(
            self.batch_size * self.points, self.streams.generator("source", step)
        )
        target = sampled(clouds, self.points, self.streams.generator("target points", step))
        return noise.view_as(target), target

    def evaluation_pairs(self, split: Split) -> list[Pair]:
        """The fixed pairs of a split, (evaluation_points, 3) each, the classes in turn.

        Raises:
            ValueError: for another split, or a class with too few shapes.
        """
        shapes = self.split(split)
        rows = balanced(shapes.labels, len(shapes.classes), self.evaluation_count)
        target = _fixed_points(
            shapes.clouds[rows], self.evaluation_points, self.evaluation_seed, f"{split} target"
        )
        streams = Streams(self.evaluation_seed)
        return [
            (self.source.draw(len(cloud), streams.generator(f"{split} noise", pair)), cloud)
            for pair, cloud in enumerate(target)
        ]

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of the files, and the law of the source."""
        return super().fingerprints() | {"source": repr(self.source)}


class ShapeClouds(ShapeData):
    """Shapes of all classes: batches (clouds (B, points, 3), labels (B,)) of the training split.

    Args:
        batch_size: clouds in a batch.
        steps: batches of a run.
        points: of every cloud, drawn afresh in every step.
        evaluation_shapes: how many test shapes the exam uses, drawn with the class shares kept;
            None, or more than there are, uses all.
        evaluation_points: of each cloud in the exam; None uses all 1,024.
        evaluation_seed: fixes the shapes and the points.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        points: int = SHAPE_POINTS,
        evaluation_shapes: int | None = None,
        evaluation_points: int | None = None,
        evaluation_seed: int = 2511,
    ) -> None:
        super().__init__(batch_size, steps, points)
        self.evaluation_count = _count("evaluation_shapes", evaluation_shapes)
        self.evaluation_points = _within("evaluation_points", evaluation_points or SHAPE_POINTS)
        self.evaluation_seed = evaluation_seed

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the shapes."""
        super().prepare(streams, parents)
        self.order = EpochOrder(len(self.split("train").labels), self.batch_size, streams)

    def draw_batch(self, step: int) -> Pair:
        """Clouds (B, points, 3) and labels (B,) of a step."""
        rows = self.order.rows(step)
        train = self.split("train")
        clouds = sampled(
            train.clouds[rows], self.points, self.streams.generator("cloud points", step)
        )
        return clouds, train.labels[rows]

    def evaluation_clouds(self) -> Tensor:
        """The test clouds of the exam, float32 (n, evaluation_points, 3)."""
        test = self.split("test")
        clouds = test.clouds
        if self.evaluation_count is not None and self.evaluation_count < len(clouds):
            generator = Streams(self.evaluation_seed).generator("evaluation shapes")
            clouds = clouds[stratified(test.labels, self.evaluation_count, generator)]
        return _fixed_points(clouds, self.evaluation_points, self.evaluation_seed, "test cloud")


def balanced(labels: Tensor, classes: int, count: int) -> Tensor:
    """Rows (count,) of the first shapes of every class, the classes in turn.

    Args:
        labels: (n,), 0..classes-1.
        classes: how many there are.
        count: rows wanted; the first `count % classes` classes give one more.

    Raises:
        ValueError: when a class has too few rows.
    """
    smallest = int(torch.bincount(labels, minlength=classes).min())
    if count > classes * smallest:
        raise ValueError(
            f"evaluation_pairs must be at most {classes * smallest}, {smallest} of every class, "
            f"got {count}"
        )
    turns = -(-count // classes)
    members = [(labels == label).nonzero().flatten()[:turns] for label in range(classes)]
    return torch.stack(members, dim=1).flatten()[:count]


def _fixed_points(clouds: Tensor, points: int, seed: int, purpose: str) -> Tensor:
    """`points` points of every cloud (n, 1024, 3), whatever clouds follow it."""
    if points == SHAPE_POINTS:
        return clouds
    streams = Streams(seed)
    return torch.cat(
        [
            sampled(cloud[None], points, streams.generator(f"{purpose} points", pair))
            for pair, cloud in enumerate(clouds)
        ]
    )


def _count(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def _within(name: str, points: int) -> int:
    if not 1 <= points <= SHAPE_POINTS:
        raise ValueError(f"{name} must lie in 1..{SHAPE_POINTS}, got {points}")
    return points
