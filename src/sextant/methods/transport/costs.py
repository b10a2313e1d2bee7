"""Squared Euclidean costs between two clouds of points."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.numerics import check_floating, divided, outside_autocast, unit, widened


def flat_cloud(points: Tensor, name: str) -> Tensor:
    """Points (n, *shape) as a detached float cloud (n, d); half precision becomes float32.

    Raises:
        TypeError: for anything but a tensor of floating-point numbers.
        ValueError: for a cloud without points or coordinates, or with NaN or infinite coordinates.
    """
    check_floating(points, name)
    if points.ndim < 2 or points.numel() == 0:
        shape = tuple(points.shape)
        raise ValueError(f"{name} must have shape (n, *shape) with n >= 1, got {shape}")
    points = widened(points.detach().flatten(1))
    if not torch.isfinite(points).all():
        raise ValueError(f"{name} has NaN or infinite coordinates; every coordinate must be finite")
    return points


def flat_clouds(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Two equally many points, (n, *shape) each, as clouds (n, d); see `flat_cloud`.

    Raises:
        TypeError: as `flat_cloud`.
        ValueError: as `flat_cloud`, and where the numbers of points or of coordinates differ.
    """
    source, target = flat_cloud(source, "source"), flat_cloud(target, "target")
    if source.shape != target.shape:
        raise ValueError(
            "source and target must hold equally many points of equally many coordinates, "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    return source, target


def centred(points: Tensor) -> Tensor:
    """A cloud (n, d) moved so that its mean is 0.

    Centring each of two clouds on its own mean changes their squared distances by a constant a row
    and a constant a column, so it changes no transport plan; it removes the large numbers in which
    a small distance would drown.
    """
    points = widened(points)
    return points - points.mean(0)


def comparable(source: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both clouds in a dtype, each with mean 0, in one unit in which squares are numbers of it.

    No transport plan of the squared distances changes. The unit is 1 for all but the largest and
    smallest clouds, see `unit`.
    """
    # Once before their means are taken, which may overflow, and once for what is left without them.
    for change in (lambda points: points, centred):
        source, target = change(source), change(target)
        by = unit(source, target, dtype=dtype)
        source, target = divided(source, by), divided(target, by)
    return source.to(dtype), target.to(dtype)


@outside_autocast()
def squared_distances(source: Tensor, target: Tensor) -> Tensor:
    """Costs C_ij = ||source_i - target_j||^2 (n, m) of clouds (n, d) and (m, d), never negative.

    One matrix product after centring both clouds on the same point, in the dtype of the clouds
    (float32 for half precision).
    """
    source, target = widened(source), widened(target)
    middle = 0.5 * (source.mean(0) + target.mean(0))
    source, target = source - middle, target - middle
    cost = torch.addmm(target.square().sum(1)[None], source, target.t(), alpha=-2.0)
    return cost.add_(source.square().sum(1)[:, None]).clamp_(min=0.0)
