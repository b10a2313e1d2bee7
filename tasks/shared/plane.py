"""Laws of the plane that flows start from and end at; the scales are arguments, never implied.

Every law offers `draw(n, generator)`, independent points, and `draw_balanced(n, generator)`, in
which each mode holds the same number of points (up to one), so that a score does not depend on
chance counts. Both return float32 (n, 2). A law's repr names it completely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from sextant.ranges import at_least


class Law(Protocol):
    """A distribution that points are drawn from."""

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n independent points, float32 (n, dimension)."""

    def draw_balanced(self, n: int, generator: Generator) -> Tensor:
        """n points with equal counts of every mode (up to one), float32 (n, dimension)."""


def _positive(name: str, value: float, zero_allowed: bool = False) -> None:
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
        allowed = "at least 0" if zero_allowed else "positive"
        raise ValueError(f"{name} must be {allowed} and finite, got {value}")


class _Modes:
    """Draws a mode for every point, by chance or in turn, then the points given their modes."""

    modes: int

    def points(self, mode: Tensor, generator: Generator) -> Tensor:
        raise NotImplementedError

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n independent points, float32 (n, 2)."""
        return self.points(torch.randint(self.modes, (n,), generator=generator), generator)

    def draw_balanced(self, n: int, generator: Generator) -> Tensor:
        """n points with equal counts of every mode (up to one), float32 (n, 2)."""
        return self.points(torch.arange(n) % self.modes, generator)


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) in `dimension` dimensions; it has one mode, so balancing changes nothing."""

    dimension: int = 2

    def __post_init__(self) -> None:
        at_least(1, dimension=self.dimension)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n independent points, float32 (n, dimension)."""
        return torch.randn(n, self.dimension, generator=generator)

    draw_balanced = draw


@dataclass(frozen=True)
class EightGaussians(_Modes):
    """Eight equally likely round Gaussians on a circle, the first on the positive x axis.

    Args:
        radius: of the circle the means lie on.
        std: standard deviation of each Gaussian along each axis.
    """

    radius: float = 2.0
    std: float = 0.08
    modes = 8

    def __post_init__(self) -> None:
        _positive("radius", self.radius)
        _positive("std", self.std, zero_allowed=True)

    def points(self, mode: Tensor, generator: Generator) -> Tensor:
        """Points of the given modes (n,), float32 (n, 2)."""
        angles = torch.arange(self.modes) * (2 * math.pi / self.modes)
        means = self.radius * torch.stack((angles.cos(), angles.sin()), dim=1)
        return means[mode] + self.std * torch.randn(len(mode), 2, generator=generator)


@dataclass(frozen=True)
class TwoMoons(_Modes):
    """`scale` times the centred law of `sklearn.datasets.make_moons`.

    An upper half circle around the origin and a lower one around (1, 1/2), both of radius 1, an
    angle uniform on [0, pi], Gaussian noise; then the mean (1/2, 1/4) is taken off and everything,
    noise included, is scaled.

    Args:
        noise: standard deviation of the noise before scaling.
        scale: the factor.
    """

    noise: float = 0.08
    scale: float = 1.6
    modes = 2

    def __post_init__(self) -> None:
        _positive("noise", self.noise, zero_allowed=True)
        _positive("scale", self.scale)

    def points(self, mode: Tensor, generator: Generator) -> Tensor:
        """Points of the given moons (n,), 0 the upper and 1 the lower; float32 (n, 2)."""
        angle = math.pi * torch.rand(len(mode), generator=generator)
        noise = self.noise * torch.randn(len(mode), 2, generator=generator)
        return self.scale * (self.curve(mode, angle) + noise)

    @staticmethod
    def curve(mode: Tensor, angle: Tensor) -> Tensor:
        """The centred point of a moon (n,) at an angle (n,), before noise and scale; (n, 2)."""
        upper = torch.stack((angle.cos() - 0.5, angle.sin() - 0.25), dim=1)
        # The lower moon is the upper one turned by half a circle about the centre.
        return torch.where(mode[:, None] == 0, upper, -upper)


@dataclass(frozen=True)
class Checkerboard(_Modes):
    """Uniform on every second tile of a square board, the lower left tile among them.

    Args:
        tiles: along one side of the board, even, so that every row holds as many.
        half_width: the board is [-half_width, half_width] squared.
    """

    tiles: int = 4
    half_width: float = 2.0

    def __post_init__(self) -> None:
        if self.tiles < 2 or self.tiles % 2:
            raise ValueError(f"tiles must be an even number of at least 2, got {self.tiles}")
        _positive("half_width", self.half_width)

    @property
    def modes(self) -> int:
        """The number of tiles that hold points."""
        return self.tiles**2 // 2

    def points(self, mode: Tensor, generator: Generator) -> Tensor:
        """Points of the given tiles (n,), counted along rows from below; float32 (n, 2)."""
        row = mode // (self.tiles // 2)
        column = 2 * (mode % (self.tiles // 2)) + row % 2
        corner = torch.stack((column, row), dim=1)
        side = 2 * self.half_width / self.tiles
        inside = torch.rand(len(mode), 2, generator=generator)
        return (corner + inside) * side - self.half_width
