"""What users hand in, checked: clouds and weights (tensors or arrays) and slicers."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from sextant.methods.numerics import evaluating, unit
from sextant.methods.transport.sliced.slicers import (
    LinearSlicer,
    SetTransformerSlicer,
    SineMLP,
    draw_weights,
)

Points = Tensor | np.ndarray
"""A cloud (n, d) or weights (n,) as a user has them."""

SLICERS = {"mlp": SineMLP, "linear": LinearSlicer, "set_transformer": SetTransformerSlicer}
"""The slicers `min_sliced_plan` knows by name, each built from the dimension of the points."""


def pooled_units(*clouds: tuple[Tensor, Tensor | None]) -> tuple[Tensor, float]:
    """Centre (d,) and scale of weighted clouds, every cloud with the same share."""
    shares = [
        torch.full_like(points[:, 0], 1 / len(points), dtype=torch.float64)
        if weights is None
        else weights.to(points.device).double() / weights.double().sum()
        for points, weights in clouds
    ]
    points = torch.cat([points.double() for points, _ in clouds])
    by = unit(points, dtype=torch.float64)
    points = points / by
    share = torch.cat(shares) / len(clouds)
    centre = share @ points
    spread = share @ (points - centre).square().mean(1)
    # Clouds that are one point each have no scale, and need none.
    return centre * by, spread.sqrt().item() * by or 1.0


def checked_cloud(points: Points, name: str) -> Tensor:
    """A user's points as a detached tensor (n, d), or an error that names the argument."""
    points = torch.from_numpy(points) if isinstance(points, np.ndarray) else points
    if not isinstance(points, Tensor) or not points.is_floating_point():
        found = getattr(points, "dtype", type(points).__name__)
        raise TypeError(f"{name} must be a tensor or array of floating-point numbers, got {found}")
    if points.ndim != 2 or points.numel() == 0:
        raise ValueError(f"{name} must have shape (n, d) with points, got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError(f"{name} has NaN or infinite coordinates; every coordinate must be finite")
    return points.detach()


def checked_weights(weights: Points | None, name: str, points: Tensor) -> Tensor | None:
    """A user's weights (n,) as a tensor where its points (n, d) are, None for None."""
    if weights is None:
        return None
    weights = torch.from_numpy(weights) if isinstance(weights, np.ndarray) else weights
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        found = getattr(weights, "dtype", type(weights).__name__)
        raise TypeError(f"{name} must be a tensor or array of floating-point numbers, got {found}")
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(points)},), one a point, got {tuple(weights.shape)}"
        )
    if not (weights >= 0).all() or not 0 < weights.double().sum().item() < math.inf:
        raise ValueError(f"{name} must be finite, not negative and not all 0")
    return weights.detach().to(points.device)


def own_slicer(slicer: str | nn.Module, dimension: int, seed: int) -> nn.Module:
    """A slicer nobody else holds: built by name, or a copy of the one given."""
    if isinstance(slicer, nn.Module):
        if getattr(slicer, "dimension", dimension) != dimension:
            raise ValueError(
                f"slicer must be for points of {dimension} coordinates, got one for "
                f"{slicer.dimension}"
            )
        return copy.deepcopy(slicer)
    if slicer not in SLICERS:
        raise ValueError(f"slicer must be a module or one of {sorted(SLICERS)}, got {slicer!r}")
    with torch.random.fork_rng(devices=[]):  # what it draws when built is replaced at once
        built = SLICERS[slicer](dimension)
    draw_weights(built, torch.Generator().manual_seed(seed))
    return built


@torch.no_grad()
def check_scores(slicer: nn.Module, points: Tensor) -> None:
    """Raises a TypeError or ValueError for a slicer without one score for each of points (n, d)."""
    try:
        with evaluating(slicer):
            scores = slicer(points, None)
    except TypeError as error:
        raise TypeError(
            f"slicer must be called as slicer(points (..., N, d), context or None): {error}"
        ) from None
    if not isinstance(scores, Tensor) or scores.shape != points.shape[:1]:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"slicer must give one score a point, ({len(points)},), got {found}")
