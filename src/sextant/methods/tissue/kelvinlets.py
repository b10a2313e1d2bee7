"""Regularised Kelvinlets: closed-form displacement of an infinite elastic medium (de Goes & James
2017, "Regularized Kelvinlets").

A force f spread over the density rho_e(r) = 15 e^4 / (8 pi r_e^7), with r_e = sqrt(|r|^2 + e^2),
moves the point at offset r from its centre by

    K_e(r) f = [(a - b) / r_e + a e^2 / (2 r_e^3)] f + b / r_e^3 (r . f) r,
    a = 1 / (4 pi mu),  b = a / (4 (1 - nu)).

Positions, offsets and radii share one unit of length (metres here). Everything is differentiable in
every input, the radius and the Poisson ratio included: r_e never falls below e.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Scales = Literal["single", "bi", "tri"]
SCALE_RATIO = 1.1  # between neighbouring radii of the bi- and tri-scale brushes


def coefficients(poisson: Tensor | float, shear: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """a and b of the kernel.

    Args:
        poisson: nu in (-1, 1/2]; 1/2 is incompressible.
        shear: mu in Pa, positive.

    Raises:
        ValueError: outside these ranges.
    """
    poisson = torch.as_tensor(poisson, dtype=torch.float64)
    shear = torch.as_tensor(shear, dtype=torch.float64)
    if bool(((poisson <= -1.0) | (poisson > 0.5)).any()):
        raise ValueError(f"poisson must lie in (-1, 1/2], got {poisson.tolist()}")
    if bool((shear <= 0.0).any()):
        raise ValueError(f"shear must be positive, got {shear.tolist()}")
    a = 1.0 / (4.0 * math.pi * shear)
    return a, a / (4.0 * (1.0 - poisson))


def brush(
    radius: Tensor | float, scales: Scales = "single", ratio: float = SCALE_RATIO
) -> tuple[Tensor, Tensor]:
    """Radii (..., k) and weights (..., k) of a brush of k = 1, 2 or 3 scales.

    Single decays like 1/r, bi-scale like 1/r^3, tri-scale like 1/r^5. The widest radius is the
    smallest times `ratio`^(k - 1).

    Raises:
        ValueError: for a radius that is not positive, a ratio not above 1 or an unknown name.
    """
    if scales not in get_args(Scales):
        raise ValueError(f"scales must be one of {', '.join(get_args(Scales))}, got {scales!r}")
    if not ratio > 1.0:
        raise ValueError(f"ratio must be above 1, got {ratio}")
    radius = torch.as_tensor(radius, dtype=torch.float64)
    if bool((radius <= 0.0).any()):
        raise ValueError(f"radius must be positive, got {radius.tolist()}")
    count = get_args(Scales).index(scales) + 1
    radii = torch.stack([radius * ratio**k for k in range(count)], -1)
    one = torch.ones_like(radius)
    if count == 1:
        return radii, one[..., None]
    if count == 2:
        return radii, torch.stack([one, -one], -1)
    first, second, third = radii.square().unbind(-1)
    middle = -(third - first) / (third - second)
    return radii, torch.stack([one, middle, (second - first) / (third - second)], -1)


def grab(
    offsets: Tensor,
    force: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    shear: Tensor | float = 1.0,
) -> Tensor:
    """The displacement (..., 3) at offsets (..., 3) from a force (..., 3), single scale.

    Args:
        offsets: evaluation point minus centre, metres.
        force: newtons when `shear` is in Pa.
        radius: metres, broadcast against offsets without their last axis.
        poisson: nu.
        shear: mu in Pa.
    """
    a, b = coefficients(poisson, shear)
    along, across = _radial(offsets, *_cast(offsets, radius, a, b))
    return along[..., None] * force + across[..., None] * (
        (offsets * force).sum(-1, keepdim=True) * offsets
    )


def _cast(like: Tensor, *values: Tensor | float) -> list[Tensor]:
    # by way of float64: a plain number would be rounded to float32 first
    return [torch.as_tensor(value, dtype=torch.float64).to(like) for value in values]


def _radial(offsets: Tensor, radius: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of I and of r r^T in K_e(r), each (...)."""
    squared = radius.square()
    inverse = (offsets.square().sum(-1) + squared).rsqrt()
    cubed = inverse**3
    return (a - b) * inverse + 0.5 * a * squared * cubed, b * cubed


def normalised_kernel(
    offsets: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> Tensor:
    """The kernel (..., 3, 3) scaled to the identity at its centre, so that what it multiplies is a
    displacement and the stiffness cancels; offsets (..., 3)."""
    along, across = normalised_factors(offsets, radius, poisson, scales, ratio)
    identity = torch.eye(3).to(offsets)
    outer = offsets[..., :, None] * offsets[..., None, :]
    return along[..., None, None] * identity + across[..., None, None] * outer


def normalised_factors(
    offsets: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> tuple[Tensor, Tensor]:
    """The factors (...) of I and of r r^T in `normalised_kernel`; offsets (..., 3)."""
    a, b = coefficients(poisson)
    radii, weights = brush(radius, scales, ratio)
    centre = 0.5 * (3.0 * a - 2.0 * b) * (weights / radii).sum(-1)
    a, b, radii, weights = _cast(offsets, a, b, radii, weights / centre[..., None])
    along: Tensor | float = 0.0
    across: Tensor | float = 0.0
    for k in range(radii.shape[-1]):
        to_identity, to_outer = _radial(offsets, radii[..., k], a, b)
        along = along + weights[..., k] * to_identity
        across = across + weights[..., k] * to_outer
    return along, across


def affine(
    offsets: Tensor,
    matrix: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    shear: Tensor | float = 1.0,
) -> Tensor:
    """The displacement (..., 3) of a locally affine brush with force matrix F (..., 3, 3).

    For F = f g^T it is the derivative of the grab of f in the direction g. The matrices of
    `twist_matrix`, `scale_matrix` and `pinch_matrix` give the named brushes.

    Args:
        offsets: evaluation point minus centre, (..., 3), metres.
        matrix: newton metres when `shear` is in Pa.
        radius, poisson, shear: as in `grab`.
    """
    a, b = coefficients(poisson, shear)
    radius, a, b = _cast(offsets, radius, a, b)
    squared = radius.square()
    inverse = (offsets.square().sum(-1) + squared).rsqrt()[..., None]
    turned = (matrix @ offsets[..., None])[..., 0]
    both = turned + (matrix.mT @ offsets[..., None])[..., 0]
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None]
    stretch = (offsets * turned).sum(-1, keepdim=True)
    cubed, fifth = inverse**3, inverse**5
    return -a * (cubed + 1.5 * squared[..., None] * fifth) * turned + b * (
        (both + trace * offsets) * cubed - 3.0 * stretch * fifth * offsets
    )


def twist_matrix(axis: Tensor) -> Tensor:
    """[q]_x (..., 3, 3) of an axis q (..., 3): the brush turns about it."""
    zero = torch.zeros_like(axis[..., 0])
    x, y, z = axis.unbind(-1)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def scale_matrix(amount: Tensor) -> Tensor:
    """s I (..., 3, 3) of s (...): the brush swells or shrinks; no effect at nu = 1/2."""
    return amount[..., None, None] * torch.eye(3).to(amount)


def pinch_matrix(matrix: Tensor) -> Tensor:
    """The symmetric part without trace of (..., 3, 3): the brush stretches and narrows."""
    symmetric = 0.5 * (matrix + matrix.mT)
    trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return symmetric - trace / 3.0 * torch.eye(3).to(matrix)


def matrix_of_gradient(
    gradient: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    shear: Tensor | float = 1.0,
) -> Tensor:
    """The force matrix F (..., 3, 3) whose brush has the displacement gradient (..., 3, 3) at its
    centre. An incompressible medium cannot swell: at nu = 1/2 the trace part is left out."""
    a, b = coefficients(poisson, shear)
    radius, a, b = _cast(gradient, radius, a, b)
    skew = 0.5 * (gradient - gradient.mT)
    deviator = pinch_matrix(gradient)
    swelling = gradient - skew - deviator
    incompressible = (2.0 * b - a).abs() <= 1e-12 * a
    volume = torch.where(incompressible, torch.ones_like(a), 5.0 * (2.0 * b - a))
    share = torch.where(incompressible, torch.zeros_like(a), 2.0 / volume)
    cubed = (radius**3)[..., None, None]
    return cubed * (
        -2.0 / (5.0 * a) * skew + share * swelling + 2.0 / (4.0 * b - 5.0 * a) * deviator
    )


def external_work(
    force: Tensor, radius: Tensor | float, poisson: Tensor | float, shear: Tensor | float = 1.0
) -> Tensor:
    """The work (...) of one grab's force (..., 3) on its own displacement, joules; the elastic
    energy is half of it."""
    a, b = _cast(force, *coefficients(poisson, shear))
    (radius,) = _cast(force, radius)
    return 105.0 * math.pi * (3.0 * a - 2.0 * b) / (1024.0 * radius) * force.square().sum(-1)
