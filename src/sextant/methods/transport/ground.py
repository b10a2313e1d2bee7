"""Ground costs between points: the Euclidean distance, or its square."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sextant.methods.numerics import check_floating, outside_autocast, widened

Cost = Literal["euclidean", "sqeuclidean"]
"""How two points are compared: the distance (min-STP) or its square (min-SWGG, DGSWP, flows)."""

DIFFERENCES_UP_TO = 16
"""Most coordinates whose differences are taken one by one; a matrix product is slower up to here
only by little, and 30 times faster at 512 (measured)."""


def known_cost(cost: str) -> Cost:
    """The name of a ground cost, unchanged.

    Raises:
        ValueError: for any other name.
    """
    if cost not in get_args(Cost):
        raise ValueError(f"cost must be 'euclidean' or 'sqeuclidean', got {cost!r}")
    return cost


def _checked(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    for name, points in (("source", source), ("target", target)):
        check_floating(points, name)
        if points.ndim < 2:
            shape = tuple(points.shape)
            raise ValueError(f"{name} must have shape (..., points, d), got {shape}")
    if source.shape[-1] != target.shape[-1]:
        raise ValueError(
            "source and target must have equally many coordinates, "
            f"got {source.shape[-1]} and {target.shape[-1]}"
        )
    return widened(source), widened(target)


@outside_autocast()
def ground_cost(source: Tensor, target: Tensor, cost: Cost) -> Tensor:
    """Costs C_ij between every source and every target point, (..., N, M), float32 or float64.

    Up to 16 coordinates they are taken from coordinate differences, so that equal points cost
    exactly 0. With more, distances come from one matrix product of the clouds moved to a common
    centre; in float32 one that is really 0 can come out as up to 1e-3 of the clouds' extent.
    Differentiable in both clouds; where a distance is 0 its gradient is 0.

    Args:
        source: (..., N, d).
        target: (..., M, d); leading dimensions broadcast.
        cost: "euclidean" or "sqeuclidean".

    Raises:
        TypeError: for points that are no tensors of floating-point numbers.
        ValueError: for an unknown cost, or unequal numbers of coordinates.
    """
    known_cost(cost)
    source, target = _checked(source, target)
    mode = "donot_use_mm_for_euclid_dist"
    if source.shape[-1] > DIFFERENCES_UP_TO:
        mode = "use_mm_for_euclid_dist"
        # The same shift of both clouds changes no distance, so no gradient is lost with its own.
        centre = 0.5 * (
            source.detach().mean(-2, keepdim=True) + target.detach().mean(-2, keepdim=True)
        )
        source, target = source - centre, target - centre
    distance = torch.cdist(source, target, compute_mode=mode)
    return distance if cost == "euclidean" else distance.square()


def paired_cost(source: Tensor, target: Tensor, cost: Cost) -> Tensor:
    """Cost of each source point with the target point of the same row, (..., E), as `ground_cost`.

    Differentiable in both clouds; where a distance is 0 its gradient is 0.

    Args:
        source, target: (..., E, d); leading dimensions broadcast.
        cost: "euclidean" or "sqeuclidean".

    Raises:
        TypeError, ValueError: as `ground_cost`.
    """
    known_cost(cost)
    source, target = _checked(source, target)
    difference = source - target
    if cost == "euclidean":
        return torch.linalg.vector_norm(difference, dim=-1)
    return difference.square().sum(-1)
