"""The paddles of Pathfinder images, drawn once for all images.

Every paddle is one of a few hundred. Canvases are flat and have a frame so wide that no piece is
ever cut.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.lra.strokes import reversed_directions, ring, shifts, stroke, stroke_radius, turn_weights

if TYPE_CHECKING:
    from tasks.lra.pathfinder import PathfinderLaw

FULL = 255
DEGREES = 360


class Pieces(NamedTuple):
    """One piece of every kind: the cells it touches and their values.

    Args:
        steps: int64 (kinds, k), from the piece's start to the cells.
        values: uint8 (kinds, k); kinds with fewer cells go on with zeros.
    """

    steps: np.ndarray
    values: np.ndarray


def _without_zeros(arrays: list[np.ndarray], steps: np.ndarray) -> Pieces:
    """Arrays of one shape without most of their zeros.

    Args:
        arrays: uint8, one for each kind.
        steps: from the start to each cell of an array, in reading order.
    """
    values = np.stack([array.ravel() for array in arrays])
    k = int((values > 0).sum(axis=1).max())
    order = np.argsort(values == 0, axis=1, kind="stable")[:, :k]
    return Pieces(steps[order], np.take_along_axis(values, order, axis=1))


class Tables:
    """What depends on the law and the margin alone.

    A paddle's kind is 0..359 for a snake's first paddle, drawn forwards in whole degrees from
    -180, and 360 + j for a later one, which ends in ring cell j and is drawn backwards from there.
    """

    def __init__(self, law: PathfinderLaw, margin: int) -> None:
        self.law, self.margin = law, margin
        length, shape = law.paddle_length, (law.paddle_length, law.paddle_thickness, margin)
        radius = stroke_radius(*shape)
        self.frame = radius + margin + 2
        self.width = law.side + 2 * self.frame
        cells, directions = ring(length + margin)
        degrees = np.arange(-180, 180) * np.pi / 180
        self.orientations = np.concatenate((degrees, directions))
        self.drawn = np.concatenate((degrees, reversed_directions(directions)))
        strokes = [stroke(angle, *shape, law.antialias) for angle in self.drawn.tolist()]
        near, far = self.square(radius), self.square(radius + margin)
        self.lines = _without_zeros([piece.line for piece in strokes], near)
        self.masks = _without_zeros([piece.mask for piece in strokes], near)
        self.reaches = _without_zeros([piece.reach for piece in strokes], far)
        self.ring = self.flat(cells)
        self.weights = turn_weights(directions, self.orientations, law.continuity) / FULL
        self.step = self.flat(shifts(self.orientations, length + 2 * margin))
        self.head = self.flat(shifts(degrees, length))
        back = shifts(reversed_directions(degrees), length + margin)
        self.hinge = self.head + self.flat(back)
        inside = self.canvas(0) == 0
        self.mask, self.reach = self.canvas(law.padding), self.canvas(law.padding + margin)
        self.mask[~inside] = 0
        self.inside, self.border = inside, self.canvas(1) > 0
        self.kernels = [self._kernel(piece.mask, radius) for piece in strokes[:DEGREES]]
        blocked = self.canvas(2 * law.seed_distance) > 0
        starts = [self.starts(blocked, degree) for degree in range(DEGREES)]
        self.first_counts = np.array([len(cells) for cells in starts])
        self.first_starts = np.zeros((DEGREES, max(1, self.first_counts.max())), np.int64)
        for row, some in zip(self.first_starts, starts, strict=True):
            row[: len(some)] = some

    def flat(self, cells: np.ndarray) -> np.ndarray:
        """Cells or steps (..., 2) as positions in a flat canvas or steps there."""
        return cells[..., 0] * self.width + cells[..., 1]

    def square(self, radius: int) -> np.ndarray:
        """Steps from a cell to all cells of the square around it, in reading order."""
        return self.flat(np.stack(np.mgrid[-radius : radius + 1, -radius : radius + 1], -1)).ravel()

    def canvas(self, border: int) -> np.ndarray:
        """A flat canvas, uint8: full in the frame and the image's outer `border` cells."""
        canvas = np.full((self.width, self.width), FULL, np.uint8)
        inner = slice(self.frame + border, self.width - self.frame - border)
        canvas[inner, inner] = 0
        return canvas.ravel()

    def _kernel(self, mask: np.ndarray, radius: int) -> list[int]:
        """Steps to the cells that must be free where a snake starts with this paddle."""
        reach = self.law.paddle_length + self.margin
        # The published kernel is drawn one cell off its middle.
        low, high = radius - reach - 1, radius + reach
        return self.flat(np.argwhere(mask[low:high, low:high] == FULL) - reach).tolist()

    def starts(self, blocked: np.ndarray, degree: int) -> np.ndarray:
        """The cells of the image around which nothing is blocked (flat bool canvas)."""
        low = self.frame * self.width
        high = blocked.size - low
        taken = ~self.inside[low:high]
        for step in self.kernels[degree]:
            taken |= blocked[low + step : high + step]
        return np.flatnonzero(~taken) + low


tables = functools.cache(Tables)
