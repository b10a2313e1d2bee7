"""The scores of a slicer on a grid over the plane, for pictures of its level curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

GRID = 61
MARGIN = 0.08


def level_grid(clouds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Grid lines that hold all clouds (n, d) with a margin; two arrays (G,), float32.

    Only the first two coordinates count.
    """
    points = np.concatenate([cloud[:, :2] for cloud in clouds])
    low, high = points.min(0), points.max(0)
    reach = MARGIN * (high - low)
    lines = np.linspace(low - reach, high + reach, GRID, dtype=np.float32)
    return lines[:, 0].copy(), lines[:, -1].copy()


def levels(slicer: Any, across: np.ndarray, up: np.ndarray) -> np.ndarray | None:
    """The scores on the grid, float32 (len(up), len(across)).

    None where there is no slicer, or where it is no function on the plane: it takes points of
    another dimension, or its score of a point depends on the other points it is shown.

    Args:
        slicer: called with points (n, 2) and None for the context, or None.
        across: first coordinates of the grid.
        up: second coordinates of the grid.
    """
    if slicer is None or getattr(slicer, "dimension", 2) != 2:
        return None
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    points = torch.from_numpy(places)
    for parameter in slicer.parameters() if isinstance(slicer, torch.nn.Module) else ():
        points = points.to(parameter.device)
    with torch.no_grad():
        scores = slicer(points, None).float().cpu()
        alone = slicer(points[: len(points) // 2], None).float().cpu()
    if not torch.allclose(scores[: len(alone)], alone, rtol=1e-4, atol=1e-5):
        return None
    return scores.reshape(len(up), len(across)).numpy()
