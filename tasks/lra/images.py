"""CIFAR-10 as grey pixels in reading order."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.2989, 0.5870, 0.1140], np.float32)
GREY_VERSION = 1


def grey(images: np.ndarray) -> np.ndarray:
    """Images uint8 (n, side, side, 3) as grey uint8 (n, side, side).

    The luma weights and the rounding are TensorFlow's, which the Arena used: the weighted mean of
    values in [0, 1] times 255.5, rounded down. Time and memory are linear in the pixels.
    """
    out = np.empty(images.shape[:-1], np.uint8)
    for place in range(0, len(images), 1000):
        values = images[place : place + 1000].astype(np.float32) / 255
        out[place : place + 1000] = (values @ LUMA) * 255.5
    return out


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Grey images (n, s, s) as uint8 (n, side, side): means of squares, rounded half up.

    Raises:
        ValueError: for a side that does not divide the images' side.
    """
    whole = images.shape[-1]
    if not 1 <= side <= whole or whole % side:
        raise ValueError(f"side must divide {whole}, got {side}")
    step = whole // side
    squares = images.reshape(-1, side, step, side, step)
    sums = squares.sum(axis=(2, 4), dtype=np.int64)
    return ((2 * sums + step**2) // (2 * step**2)).astype(np.uint8)
