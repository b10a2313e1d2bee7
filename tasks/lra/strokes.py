"""The drawn pieces of Pathfinder images: paddles, their occupied surroundings, and discs.

All pieces are drawn `antialias` times larger and reduced by Lanczos, as the published generator
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COORDINATE = 64.0


def reversed_directions(orientations: np.ndarray) -> np.ndarray:
    """The opposite directions, radians; directions lie in [-pi, pi]."""
    return np.where(orientations < 0, orientations + np.pi, orientations - np.pi)


def disc_offsets(radius: int) -> np.ndarray:
    """The cells (k, 2) within `radius` of the origin."""
    row, column = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(row**2 + column**2 <= radius**2) - radius


def dilated(image: np.ndarray, radius: int) -> np.ndarray:
    """The largest value within `radius` of each cell; nothing lies outside the image."""
    height, width = image.shape
    padded = np.pad(image, radius)
    shifts = [
        padded[radius + row : radius + row + height, radius + column : radius + column + width]
        for row, column in disc_offsets(radius).tolist()
    ]
    return np.maximum.reduce(shifts)


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """A square uint8 image reduced to `side` cells by Lanczos."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Stroke:
    """A paddle drawn in one direction, seen from the cell it starts in, the middle of each array.

    Args:
        line: uint8 (2 r + 1, 2 r + 1), the paddle.
        mask: uint8 of the same shape, the cells it occupies: the paddle and its margin.
        reach: uint8 (2 (r + margin) + 1, same), the mask with the margin around it.
    """

    line: np.ndarray
    mask: np.ndarray
    reach: np.ndarray


def stroke_radius(length: int, thickness: float, margin: int) -> int:
    """The r of a `Stroke`, in cells."""
    return length + math.ceil(thickness) + margin


def stroke(
    orientation: float, length: int, thickness: float, margin: int, antialias: int
) -> Stroke:
    """A paddle of `length` and `thickness` cells in a direction (radians, rows grow downwards).

    Raises:
        ValueError: when the thickness is no whole number of the enlarged cells.
    """
    width = round(thickness * antialias)
    if width != thickness * antialias:
        raise ValueError(f"thickness times antialias must be a whole number, got {thickness}")
    radius = stroke_radius(length, thickness, margin)
    centre, side = radius * antialias, 2 * radius + 1
    row, column = (centre + shifts(np.array([orientation]), length * antialias)[0]).tolist()
    enlarged = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    ImageDraw.Draw(enlarged).line([(centre, centre), (column, row)], fill=255, width=width)
    pixels = np.array(enlarged)
    mask = reduced(dilated(pixels, margin * antialias), side)
    reach = dilated(np.pad(mask, margin), margin)
    return Stroke(reduced(pixels, side), mask, reach)


def marker(radius: float, antialias: int) -> np.ndarray:
    """A disc, uint8 (2 k + 1, 2 k + 1), seen from its middle.

    Drawn in a window large enough for the Lanczos kernel to see no edge.
    """
    half = math.ceil(radius) + 3
    side = 2 * half + 1
    axis = np.arange(side * antialias) - half * antialias
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 <= (radius * antialias) ** 2
    return reduced(np.where(inside, 255, 0).astype(np.uint8), side)


def ring(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells a paddle may end in, seen from its pivot: the different cells (k, 2) of a circle
    with one sample for each cell of its length, rounded down, and their directions (k,)."""
    angles = np.arange(0, 360, 360 / (2 * radius * np.pi)) * np.pi / 180
    samples = np.stack((radius * np.sin(angles), radius * np.cos(angles)), axis=1)
    cells = np.unique(np.floor(samples).astype(np.int64), axis=0)
    return cells, np.arctan2(cells[:, 0], cells[:, 1])


def turn_weights(orientations: np.ndarray, last: np.ndarray, continuity: float) -> np.ndarray:
    """How willing a snake is to turn from each direction `last` (n,) into each of `orientations`
    (k,): cos^2 of `continuity` times the turn, nothing from a right angle on; (n, k)."""
    turn = np.abs(orientations[None, :] - last[:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    return np.maximum(np.cos(np.minimum(turn * continuity, np.pi / 2)), 0) ** 2


def shifts(orientations: np.ndarray, distance: float) -> np.ndarray:
    """Whole cells (n, 2) from a cell to the one `distance` away in each direction (n,), rounded up
    as the published generator rounds."""
    exact = distance * np.stack((np.sin(orientations), np.cos(orientations)), axis=1)
    # Added to a coordinate before rounding, so that sin(pi) = 1e-16 does not round up to a cell.
    return (np.ceil(exact + COORDINATE) - COORDINATE).astype(np.int64)
