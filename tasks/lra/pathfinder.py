"""Pathfinder: are two discs joined by one dashed path? Drawn by the published procedure.

The algorithm is the generator of Linsley et al. (2018) and Kim et al. (2020), the parameters are
the Arena's. Two target snakes of `contour_length` paddles grow in turns, then shorter distractor
snakes; a disc stands at the first tip of one target snake, the other at the last tip of the same
snake (label 1) or of the other (label 0). An image is a function of (law, seed, index).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sextant.ranges import at_least
from tasks.lra.streams import Numbers
from tasks.shared.cache import Generated, blocks, cached, progress

VERSION = 1
BLOCK_IMAGES, BLOCK_PIXELS = 2048, 2**24  # what a block holds at most


@dataclass(frozen=True)
class PathfinderLaw:
    """Which images are drawn; the defaults are the Arena's 32 x 32, hard split.

    Args:
        side: pixels along one side.
        margins: free cells around a paddle; one is drawn for each image.
        padding: cells along the border that no paddle touches.
        paddle_length: cells.
        paddle_thickness: cells.
        contour_length: paddles of a target snake.
        distractor_length: paddles of a distractor snake.
        distractors: how many distractor snakes are tried.
        continuity: how straight the snakes are.
        seed_distance: cells between the starts of the target snakes.
        marker_radius: of the discs, cells.
        snake_contrast: brightness of a distractor; a disc has 1.
        paddle_contrast: a target has `snake_contrast` times this.
        antialias: paddles and discs are drawn this much larger and reduced.
        paddle_retries: further draws of a paddle that overlaps.
        snake_retries: further trials of a distractor that fails.
    """

    side: int = 32
    margins: tuple[int, ...] = (1,)
    padding: int = 1
    paddle_length: int = 2
    paddle_thickness: float = 0.5
    contour_length: int = 14
    distractor_length: int = 4
    distractors: int = 5
    continuity: float = 1.0
    seed_distance: int = 7
    marker_radius: float = 1.5
    snake_contrast: float = 2.0
    paddle_contrast: float = 0.75
    antialias: int = 2
    paddle_retries: int = 2
    snake_retries: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "margins", tuple(self.margins))
        if self.contour_length < 2 or self.distractor_length < 1:
            raise ValueError(
                "contour_length must be at least 2 and distractor_length at least 1, got "
                f"{self.contour_length} and {self.distractor_length}"
            )
        if self.side <= 4 * self.seed_distance:
            raise ValueError(
                f"side must be more than 4 seed_distance = {4 * self.seed_distance}, "
                f"or no snake can start, got {self.side}"
            )
        if not self.margins or min(self.margins) < 1 or self.padding < 1:
            raise ValueError(
                f"margins and padding must be at least 1, got {self.margins} and {self.padding}"
            )


def law_of_side(side: int, contour_length: int = 14) -> PathfinderLaw:
    """The Arena's law of 32, 64, 128 (Path-X) or 256 pixels.

    Args:
        side: pixels along one side.
        contour_length: 6 (easy), 9 (intermediate) or 14 (hard); a distractor has a third of it.

    Raises:
        ValueError: for another side or a contour of less than three paddles.
    """
    at_least(3, contour_length=contour_length)
    shorter = contour_length // 3
    lengths = {"contour_length": contour_length, "distractor_length": shorter}
    if side == 32:
        return PathfinderLaw(**lengths, distractors=20 // shorter)
    larger = {
        64: {"margins": (1,), "seed_distance": 12, "marker_radius": 2.5, "paddle_thickness": 1.0,
             "distractors": 22 // shorter, "snake_contrast": 0.8},
        128: {"margins": (2, 3), "seed_distance": 20, "marker_radius": 3.0,
              "paddle_thickness": 1.5, "distractors": 35 // shorter, "snake_contrast": 0.9},
        256: {"margins": (3,), "seed_distance": 27, "marker_radius": 5.0, "paddle_thickness": 2.0,
              "distractors": 30 // shorter, "snake_contrast": 1.0, "padding": 22},
    }  # fmt: skip
    if side not in larger:
        raise ValueError(f"side must be 32, 64, 128 or 256, got {side}")
    common = {"side": side, "paddle_length": 5, "paddle_contrast": 1.0, "continuity": 1.8}
    return PathfinderLaw(**common, **lengths, **larger[side])


@dataclass(frozen=True)
class Pictures:
    """Images and how they came to be.

    Args:
        images: uint8 (n, side, side); every image's brightest pixel is 255.
        labels: uint8 (n,), 1 when the discs stand on one snake, else 0.
        starts: int64 (n, 2, contour_length, 2), the cell (row, column) each paddle of each target
            snake is drawn from.
        orientations: float64 (n, 2, contour_length), the direction it is drawn in, radians with
            rows growing downwards; a paddle goes `paddle_length` cells that way.
        discs: int64 (n, 2, 2), the cells (row, column) of the two discs.
        distractors: int64 (n,), how many distractor snakes found room.
    """

    images: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    orientations: np.ndarray
    discs: np.ndarray
    distractors: np.ndarray


def draw_pictures(law: PathfinderLaw, seed: int, indices: np.ndarray) -> Pictures:
    """The images numbered `indices` (n,): each depends on (law, seed, its number) alone.

    All grow together, one paddle of every image at a time. Memory is 3 bytes a cell and image
    (a framed cell: 46 x 46 at 32 pixels); time is a few milliseconds an image at 32 pixels, most
    of it for pairs of target snakes that find no room and begin anew.
    """
    # Late, because the drawing of strokes needs Pillow.
    from tasks.lra.paddles import tables
    from tasks.lra.snakes import Herd

    indices = np.asarray(indices, np.int64)
    first = Numbers(seed, indices)
    everyone = np.arange(len(indices))
    labels = first.below(everyone, 2).astype(np.uint8)
    margin_of = np.array(law.margins)[first.below(everyone, len(law.margins))]
    parts, rows = [], []
    for margin in sorted(set(law.margins)):
        chosen = np.flatnonzero(margin_of == margin)
        if len(chosen):
            herd = Herd(tables(law, margin), first.only(chosen))
            herd.grow_targets()
            herd.grow_distractors()
            parts.append(Pictures(**herd.pictures(labels[chosen])))
            rows.append(chosen)
    order = np.argsort(np.concatenate(rows))
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in Pictures.__dataclass_fields__
    }
    return Pictures(**joined)


def _draw_block(law: PathfinderLaw, seed: int, size: int, block: int) -> tuple:
    pictures = draw_pictures(law, seed, np.arange(block * size, (block + 1) * size))
    return pictures.images, pictures.labels


def draw_images(
    law: PathfinderLaw, seed: int, count: int, workers: int | None = None
) -> dict[str, np.ndarray]:
    """The first `count` images, uint8 (count, side, side), and labels, uint8 (count,).

    Independent of the number of workers.

    Raises:
        ValueError: for a count below 1.
    """
    at_least(1, count=count)
    size = max(1, min(count, BLOCK_IMAGES, BLOCK_PIXELS // law.side**2))
    images = np.empty((count, law.side, law.side), np.uint8)
    labels = np.empty(count, np.uint8)
    drawn = blocks(partial(_draw_block, law, seed, size), workers)
    with progress(f"Pathfinder {law.side}", count) as done:
        for start in range(0, count, size):
            block_images, block_labels = next(drawn)
            stop = min(start + size, count)
            images[start:stop] = block_images[: stop - start]
            labels[start:stop] = block_labels[: stop - start]
            done(stop)
    drawn.close()
    return {"images": images, "labels": labels}


def cached_images(
    law: PathfinderLaw, seed: int, count: int, workers: int | None = None
) -> Generated:
    """As `draw_images`, from disk when they were drawn before."""
    what = {"generator": "pathfinder", "version": VERSION, "seed": seed, "count": count}
    return cached(
        f"pathfinder{law.side}",
        what | asdict(law),
        lambda: draw_images(law, seed, count, workers),
    )


def read_release(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, side, side) and labels uint8 (n,) of one split of the Arena's release.

    Args:
        folder: a split such as `pathfinder32/curv_contour_length_14`, with `metadata/*.npy`, text
            files of rows `subfolder file index label ...`, and the named png files.

    Rows come in the order of the metadata files' numbers. Memory is one byte a pixel.

    Raises:
        ValueError: for a folder without metadata, a row that is too short, a label other than 0
            and 1, or images of different sizes.
        FileNotFoundError: for an image that is not there.
    """
    from PIL import Image

    files = sorted(
        (folder / "metadata").glob("*.npy"), key=lambda path: (len(path.stem), path.stem)
    )
    if not files:
        raise ValueError(f"{folder} must hold metadata/*.npy")
    images, labels = [], []
    for path in files:
        for line in path.read_text("utf8").splitlines():
            fields = line.split()
            if len(fields) < 4 or fields[3] not in ("0", "1"):
                raise ValueError(
                    f"{path} must hold rows 'subfolder file index label ...' with label 0 or 1, "
                    f"got {line!r}"
                )
            with Image.open(folder / fields[0] / fields[1]) as image:
                images.append(np.asarray(image.convert("L")))
            labels.append(int(fields[3]))
    if len({image.shape for image in images}) != 1 or images[0].shape[0] != images[0].shape[1]:
        raise ValueError(f"{folder} must hold square images of one size")
    return np.stack(images), np.array(labels, np.uint8)
