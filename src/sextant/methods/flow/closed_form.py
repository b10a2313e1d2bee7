"""Flows between Gaussians in closed form: source N(0, I), data N(mean, std^2 I).

With z_t = (1 - t) x + t e the mean of z_t is (1 - t) mean in both cases below, and
s_t = sqrt((1 - t)^2 std^2 + t^2) is its standard deviation when source e and data x are
independent. The optimal coupling is x = mean + std e (the Monge map). Derived from the definitions
of arXiv 2505.13447; exact to rounding in float64. Everywhere z is (n, *shape), times are (n,),
and mean is a number or a tensor that broadcasts against z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.flow.paths import align
from sextant.methods.numerics import widened
from sextant.ranges import positive


def spread(t: Tensor, std: float) -> Tensor:
    """s_t, the standard deviation of z_t under independent pairs; t of any shape.

    Raises:
        ValueError: for a std that is not positive.
    """
    positive(std=std)
    t = widened(t)
    return torch.sqrt(((1.0 - t) * std) ** 2 + t**2)


def independent_velocity(z: Tensor, t: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """v(z, t) = (t - (1 - t) std^2) / s_t^2 (z - (1 - t) mean) - mean."""
    return independent_average_velocity(z, t, t, mean, std)


def independent_average_velocity(
    z: Tensor, r: Tensor, t: Tensor, mean: Tensor | float, std: float
) -> Tensor:
    """u(z, r, t) = (z - (1-r) mean - (s_r / s_t)(z - (1-t) mean)) / (t - r).

    Written without the division by t - r, which cancels: s_t^2 - s_r^2 = (t - r) times a
    polynomial. So r = t is no special case and gives the velocity.
    """
    z = widened(z)
    r, t = align(widened(r), z), align(widened(t), z)
    spread_r, spread_t = spread(r, std), spread(t, std)
    slope = ((t + r) - std**2 * (2.0 - t - r)) / (spread_t * (spread_t + spread_r))
    return slope * (z - (1.0 - t) * mean) - mean


def optimal_velocity(z: Tensor, t: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """v(z, t) = (1 - std) (z - (1-t) mean) / ((1-t) std + t) - mean, under the Monge map."""
    z = widened(z)
    t = align(widened(t), z)
    return (1.0 - std) * (z - (1.0 - t) * mean) / ((1.0 - t) * std + t) - mean


def optimal_average_velocity(
    z: Tensor, r: Tensor, t: Tensor, mean: Tensor | float, std: float
) -> Tensor:
    """u(z, r, t) = v(z, t) for every r: lines that do not cross are walked at constant speed."""
    align(r, z)
    return optimal_velocity(z, t, mean, std)


def independent_conditional_variance(t: Tensor, dimension: int, std: float) -> Tensor:
    """E ||v_c - v(z_t, t)||^2 = dimension std^2 / s_t^2; under the Monge map it is 0."""
    return dimension * std**2 / spread(t, std) ** 2
