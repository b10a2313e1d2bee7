"""CIFAR-10 as its package holds it: images in strips, and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SIDE = 32
CLASSES = 10
TRAINING_FILES = tuple(f"data_batch_{number}.png" for number in range(1, 6))


def read_cifar10(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (n, 32, 32, 3) and labels uint8 (n,) of the `train` or `test` part.

    Raises:
        ValueError: for another part, or files that do not fit together.
    """
    from PIL import Image

    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    files = TRAINING_FILES if part == "train" else ("test_batch.png",)
    rows = []
    for name in files:
        with Image.open(folder / name) as picture:
            rows.append(np.asarray(picture.convert("RGB")).reshape(-1, SIDE, SIDE, 3))
    images = np.concatenate(rows)
    # "lables" is how the package writes it.
    labels = np.array(json.loads((folder / f"{part}_lables.json").read_text()), np.uint8)
    if labels.shape != (len(images),) or labels.max() >= CLASSES:
        raise ValueError(
            f"{folder} must hold a label 0..9 for each of the {len(images)} images of {part}, "
            f"got {labels.shape} up to {labels.max()}"
        )
    return images, labels
