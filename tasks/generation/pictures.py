"""Digits laid out in a picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CLASSES = 10
ZOOM = 2


def digit_grid(images: Tensor, labels: Tensor, columns: int) -> np.ndarray:
    """The first `columns` images of every class, uint8 (10, columns, H, W).

    Args:
        images: (n, 1, H, W) in [0, 1].
        labels: (n,), 0..9; places of a class with too few images stay black.
        columns: images of a class.
    """
    grid = torch.zeros(CLASSES, columns, *images.shape[2:])
    for label in range(CLASSES):
        chosen = images[labels == label][:columns, 0]
        grid[label, : len(chosen)] = chosen
    return in_rows(grid)


def in_rows(grid: Tensor) -> np.ndarray:
    """Images (rows, columns, H, W) in [0, 1] as uint8."""
    return (grid.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def show(grid: np.ndarray) -> np.ndarray:
    """One picture, uint8 (height, width, 3), of a grid uint8 (rows, columns, H, W)."""
    rows, columns, height, width = grid.shape
    sheet = grid.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    sheet = sheet.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    return np.repeat(sheet[:, :, None], 3, axis=2)
