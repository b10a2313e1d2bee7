"""Point clouds and what is done to them: the moons of the drift, rotation, sampling, ModelNet10."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from sextant.contracts import Streams
from sextant.data import DataFolder
from tasks.shared.plane import EightGaussians, TwoMoons

SHAPE_POINTS = 1024
FULL_SCALE = 32767  # of the stored 16-bit coordinates


@dataclass(frozen=True)
class ShiftedMoons(TwoMoons):
    """Two moons, noise-free unless asked otherwise, moved by `shift` after scaling.

    The default is `3 x - 1` of the law of `sklearn.datasets.make_moons` (min-STP): its
    mean (1/2, 1/4) is taken off by `TwoMoons`, so three times that minus one is put back.

    Args:
        noise: standard deviation of the noise before scaling.
        scale: the factor.
        shift: added to every point.
    """

    noise: float = 0.0
    scale: float = 3.0
    shift: Sequence[float] = (0.5, -0.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        shift = tuple(float(value) for value in self.shift)
        if len(shift) != 2 or not all(map(math.isfinite, shift)):
            raise ValueError(f"shift must be two finite numbers, got {list(self.shift)}")
        object.__setattr__(self, "shift", shift)

    def points(self, mode: Tensor, generator: Generator) -> Tensor:
        """Points of the given moons (n,), 0 the upper and 1 the lower; float32 (n, 2)."""
        return super().points(mode, generator) + torch.tensor(self.shift)


def drift_source() -> EightGaussians:
    """The source law of the drift: radius 5, variance 0.1 along each axis."""
    return EightGaussians(radius=5.0, std=math.sqrt(0.1))


def rotated(points: Tensor, angle: float) -> Tensor:
    """Points (n, 2) turned about the origin by `angle` radians, anticlockwise."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ torch.tensor([[cosine, sine], [-sine, cosine]], dtype=points.dtype)


class SideStreams(Streams):
    """The streams of one side of a pair, so that both sides may ask for the same purpose.

    Args:
        streams: the run's streams.
        side: the name that sets this side's draws apart.
    """

    def __init__(self, streams: Streams, side: str) -> None:
        super().__init__(streams.seed)
        self.side = side

    def generator(self, purpose: str, index: int = 0) -> Generator:
        """A CPU generator for draw number `index` of `purpose` on this side."""
        return super().generator(f"{self.side} {purpose}", index)


def sampled(clouds: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` different points of every cloud, in random order.

    Args:
        clouds: (B, n, d).
        count: 1..n.
        generator: draws the points of every cloud independently.

    Raises:
        ValueError: for a count outside 1..n.
    """
    available = clouds.shape[1]
    if not 1 <= count <= available:
        raise ValueError(f"points must lie in 1..{available}, got {count}")
    # The largest of independent uniform numbers name a random subset, in random order.
    chosen = torch.rand(len(clouds), available, generator=generator).topk(count, dim=1).indices
    return clouds.gather(1, chosen[:, :, None].expand(-1, -1, clouds.shape[2]))


class Shapes(NamedTuple):
    """Clouds float32 (n, 1024, 3) in [-1, 1], labels int64 (n,) and the names of the classes."""

    clouds: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def of_class(self, name: str) -> Tensor:
        """The clouds of a class (m, 1024, 3), in stored order.

        Raises:
            ValueError: for a class that is not there.
        """
        if name not in self.classes:
            raise ValueError(f"class must be one of {', '.join(self.classes)}, got {name!r}")
        return self.clouds[self.labels == self.classes.index(name)]


def read_shapes(folder: DataFolder) -> tuple[Shapes, Shapes]:
    """The official training and test shapes of ModelNet10.

    Every stored cloud is centred by its bounding box and scaled by half the longest side of it.

    Raises:
        ValueError: for files whose arrays do not fit together.
    """
    return _read(folder, "train"), _read(folder, "test")


def _read(folder: DataFolder, part: str) -> Shapes:
    with np.load(folder.path / f"{part}_{SHAPE_POINTS}.npz") as stored:
        points, labels = stored["points"], stored["label"]
        classes = tuple(str(name) for name in stored["classes"])
    if points.shape[1:] != (SHAPE_POINTS, 3) or labels.shape != points.shape[:1]:
        raise ValueError(
            f"{part} shapes must be (n, {SHAPE_POINTS}, 3) points and n labels, got "
            f"{points.shape} and {labels.shape}"
        )
    clouds = torch.from_numpy(points).to(torch.float32) / FULL_SCALE
    return Shapes(clouds, torch.from_numpy(labels).long(), classes)
