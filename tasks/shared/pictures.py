"""Labelled colour pictures: read whole, made smaller, divided class by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sextant.data import DataFolder
from tasks.shared.cache import cached
from tasks.shared.cifar10 import read_cifar10

PARTS = ("train", "test")
VERSION = 1


class Pictures(NamedTuple):
    """Images uint8 (n, channels, side, side) and their labels int64 (n,)."""

    images: Tensor
    labels: Tensor

    def rows(self, chosen: Tensor) -> Pictures:
        """The pictures at row numbers or under a mask (n,)."""
        return Pictures(self.images[chosen], self.labels[chosen])


def cifar10(folder: DataFolder, side: int = 32) -> tuple[Pictures, Pictures]:
    """CIFAR-10's training and test pictures, in colour; decoded once, then mapped from disk.

    Args:
        folder: the verified files.
        side: pixels; 32 or a divisor of it, for which squares of pixels are averaged.
    """

    def make() -> dict[str, np.ndarray]:
        arrays = {}
        for part in PARTS:
            images, labels = read_cifar10(folder.path, part)
            arrays[f"{part}_images"] = smaller(images, side).transpose(0, 3, 1, 2)
            arrays[f"{part}_labels"] = labels.astype(np.int64)
        return arrays

    law = {"version": VERSION, "data": folder.fingerprint, "side": side}
    arrays = cached("cifar10-colour", law, make).arrays
    return tuple(
        Pictures(*(torch.from_numpy(np.array(arrays[f"{part}_{of}"])) for of in Pictures._fields))
        for part in PARTS
    )


def smaller(images: np.ndarray, side: int) -> np.ndarray:
    """Images uint8 (n, s, s, channels) as (n, side, side, channels): means of squares, rounded half
    up.

    Raises:
        ValueError: for a side that does not divide the images' side.
    """
    whole = images.shape[1]
    if not 1 <= side <= whole or whole % side:
        raise ValueError(f"side must divide {whole}, got {side}")
    step = whole // side
    if step == 1:
        return images
    squares = images.reshape(len(images), side, step, side, step, -1)
    sums = squares.sum((2, 4), dtype=np.int64)
    return ((2 * sums + step**2) // (2 * step**2)).astype(np.uint8)


def of_each_class(labels: Tensor, first: int, count: int | None) -> Tensor:
    """Row numbers, in order, of `count` pictures of every class, `first` pictures of it left out.

    Args:
        labels: int64 (n,).
        first: how many of a class come before.
        count: how many of a class are taken; None takes all that are left.

    Raises:
        ValueError: where a class has fewer.
    """
    chosen = []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        wanted = len(rows) - first if count is None else count
        if wanted < 1 or first + wanted > len(rows):
            raise ValueError(
                f"class {int(label)} has {len(rows)} pictures, fewer than the "
                f"{first + max(wanted, 1)} that were asked for"
            )
        chosen.append(rows[first : first + wanted])
    return torch.cat(chosen).sort().values
