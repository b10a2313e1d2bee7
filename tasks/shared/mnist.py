"""MNIST in three parts: the release's training images without the last ones, those, and its test
images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sextant.data import DataFolder
from sextant.ranges import at_least
from tasks.shared.idx import read_idx

SIDE = 28
CLASSES = 10


class Digits(NamedTuple):
    """Images uint8 (n, 28, 28) and their labels int64 (n,)."""

    images: Tensor
    labels: Tensor

    def first(self, count: int | None) -> Digits:
        """The first `count` of them, or all."""
        return Digits(self.images[:count], self.labels[:count])


def read_mnist(
    folder: DataFolder, validation: int = 5000, limit: int | None = None
) -> tuple[Digits, Digits, Digits]:
    """The train, validation and test parts.

    Args:
        folder: the verified files.
        validation: how many of the last training images form the validation part.
        limit: keep only the first `limit` images of each part; None keeps all.

    Raises:
        ValueError: for parts that would be empty or files that do not fit together.
    """
    train, test = _read_pair(folder, "train"), _read_pair(folder, "t10k")
    if not 0 < validation < len(train.labels):
        raise ValueError(f"validation must lie in 1..{len(train.labels) - 1}, got {validation}")
    if limit is not None:
        at_least(1, limit=limit)
    cut = len(train.labels) - validation
    parts = (
        Digits(train.images[:cut], train.labels[:cut]),
        Digits(train.images[cut:], train.labels[cut:]),
        test,
    )
    return tuple(part.first(limit) for part in parts)


def _read_pair(folder: DataFolder, prefix: str) -> Digits:
    images = read_idx(folder.path / f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder.path / f"{prefix}-labels-idx1-ubyte").long()
    if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{prefix} files must hold (n, {SIDE}, {SIDE}) images and n labels, got "
            f"{tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return Digits(images, labels)


def as_inputs(images: Tensor) -> Tensor:
    """Images uint8 (n, 28, 28) as float32 (n, 1, 28, 28) in [0, 1]."""
    return images.unsqueeze(1).to(torch.float32) / 255


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sorted row numbers (count,) of a sample whose class shares are those of `labels` (n,).

    Every class gets its share rounded down, the largest remainders get the rest; inside a class
    the rows are drawn, because the first test images of MNIST are easier than the last.

    Raises:
        ValueError: for a count outside 1..n.
    """
    n = len(labels)
    if not 1 <= count <= n:
        raise ValueError(f"evaluation_points must lie in 1..{n}, got {count}")
    sizes = torch.bincount(labels)
    # In whole numbers, because a rounding error in a remainder would change who gets the rest.
    quota, remainder = sizes * count // n, sizes * count % n
    order = remainder.sort(descending=True, stable=True).indices
    quota[order[: count - int(quota.sum())]] += 1
    rows = []
    for label, wanted in enumerate(quota.tolist()):
        members = (labels == label).nonzero().flatten()
        rows.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return torch.cat(rows).sort().values
