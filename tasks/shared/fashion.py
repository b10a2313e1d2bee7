"""Fashion-MNIST as pictures: unpacked, made smaller, kept."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import torch

from sextant.data import DataFolder
from tasks.shared.cache import cached
from tasks.shared.idx import read_idx
from tasks.shared.pictures import Pictures, smaller

VERSION = 1
PREFIXES = {"train": "train", "test": "t10k"}


def fashion_mnist(folder: DataFolder, side: int = 28) -> tuple[Pictures, Pictures]:
    """Training and test pictures; unpacked once, then mapped from disk.

    Args:
        folder: the four packed IDX files of the release.
        side: pixels; 28 or a divisor of it, for which squares of pixels are averaged.
    """

    def make() -> dict[str, np.ndarray]:
        arrays = {}
        for part, prefix in PREFIXES.items():
            images = _unpacked(folder.path / f"{prefix}-images-idx3-ubyte.gz")
            grey = smaller(images.numpy()[..., None], side).transpose(0, 3, 1, 2)
            arrays[f"{part}_images"] = grey.repeat(3, axis=1)
            labels = _unpacked(folder.path / f"{prefix}-labels-idx1-ubyte.gz")
            arrays[f"{part}_labels"] = labels.numpy().astype(np.int64)
        return arrays

    law = {"version": VERSION, "data": folder.fingerprint, "side": side}
    arrays = cached("fashion-mnist", law, make).arrays
    return tuple(
        Pictures(*(torch.from_numpy(np.array(arrays[f"{part}_{of}"])) for of in Pictures._fields))
        for part in PREFIXES
    )


def _unpacked(path: Path) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / path.stem
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return read_idx(plain)
