"""Several graspers at once: strengths of all Kelvinlet brushes from what the tools prescribe."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.tissue.kelvinlets import (
    SCALE_RATIO,
    Scales,
    brush,
    coefficients,
    normalised_kernel,
)


def constraint_matrix(
    centres: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> Tensor:
    """Kc (..., 3n, 3n): normalised kernels between n centres (..., n, 3).

    A radius may be one number or (..., n), one a centre; block (i, j) then has the radius of the
    centre j that pulls. With one radius the matrix is symmetric, positive definite for distinct
    centres.
    """
    offsets = centres[..., :, None, :] - centres[..., None, :, :]
    radius = torch.as_tensor(radius, dtype=torch.float64)
    if radius.dim():
        radius = radius[..., None, :]
    blocks = normalised_kernel(offsets, radius, poisson, scales, ratio)
    count = centres.shape[-2]
    return blocks.transpose(-3, -2).reshape(*blocks.shape[:-4], 3 * count, 3 * count)


def solve_constraints(
    centres: Tensor,
    displacement: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    ridge: float = 1e-3,
    real: Tensor | None = None,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> Tensor:
    """The brushes' strengths f (..., n, 3), all centres of all graspers at once, in float64.

    f minimises |u - Kc f|^2 / (3n) + ridge |f|^2, in closed form: (Kc^T Kc + 3 n ridge I) f =
    Kc^T u by Cholesky. Dense patches make Kc nearly singular (condition numbers up to 1e8), so a
    ridge is needed in practice; ridge 0 interpolates, by a plain solve.

    Args:
        centres: (..., n, 3) metres.
        displacement: wanted at the centres, (..., n, 3) metres.
        radius, poisson, scales, ratio: of the brushes.
        ridge: at least 0.
        real: (..., n) bool, False for entries that only fill up a batch; their f is 0.

    Raises:
        ValueError: for a negative ridge, or shapes that do not match.
    """
    if ridge < 0.0:
        raise ValueError(f"ridge must be at least 0, got {ridge}")
    if centres.shape != displacement.shape or centres.shape[-1] != 3:
        raise ValueError(
            "centres and displacement must both be (..., n, 3), "
            f"got {tuple(centres.shape)} and {tuple(displacement.shape)}"
        )
    kernel = constraint_matrix(centres.double(), radius, poisson, scales, ratio)
    count = torch.as_tensor(centres.shape[-2], dtype=torch.float64, device=centres.device)
    wanted = displacement.double()
    identity = torch.eye(kernel.shape[-1], dtype=torch.float64, device=kernel.device)
    missing = torch.zeros_like(identity)
    if real is not None:
        kept = real.double().repeat_interleave(3, -1)
        kernel = kernel * kept[..., :, None] * kept[..., None, :]
        wanted = wanted * real[..., None]
        count = real.sum(-1).clamp(min=1).double()[..., None, None]
        missing = torch.diag_embed(1.0 - kept)
    values = wanted.flatten(-2)[..., None]
    if ridge == 0.0:
        strengths = torch.linalg.solve(kernel + missing, values)
    else:
        normal = kernel.mT @ kernel + 3.0 * count * ridge * identity
        strengths = torch.cholesky_solve(kernel.mT @ values, torch.linalg.cholesky(normal))
    return strengths[..., 0].unflatten(-1, (-1, 3))


def superpose(
    points: Tensor,
    centres: Tensor,
    strengths: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> Tensor:
    """The displacement (..., N, 3) at points (..., N, 3) of n normalised grabs: centres and
    strengths (..., n, 3). The (N, n, 3, 3) kernels are never formed."""
    squared = (
        points.square().sum(-1)[..., :, None]
        + centres.square().sum(-1)[..., None, :]
        - 2.0 * points @ centres.mT
    ).clamp(min=0.0)
    a, b = coefficients(poisson)
    radii, weights = brush(radius, scales, ratio)
    centre = 0.5 * (3.0 * a - 2.0 * b) * (weights / radii).sum(-1)
    a, b, radii, weights = (
        value.to(points) for value in (a, b, radii, weights / centre[..., None])
    )
    along: Tensor | float = 0.0
    across: Tensor | float = 0.0
    for k in range(radii.shape[-1]):
        widened = radii[..., k].square()
        if widened.dim():
            widened = widened[..., None, :]
        weight = weights[..., k] if not widened.dim() else weights[..., None, :, k]
        inverse = (squared + widened).rsqrt()
        cubed = inverse * inverse * inverse * weight
        along = along + (a - b) * weight * inverse + 0.5 * a * widened * cubed
        across = across + b * cubed
    # sum_j s_j (r_j . f_j) r_j with r_j = x - c_j, written as products with the centres' arrays
    pulled = across * (points @ strengths.mT - (centres * strengths).sum(-1)[..., None, :])
    return along @ strengths + pulled.sum(-1, keepdim=True) * points - pulled @ centres


def kelvinlet_field(
    points: Tensor,
    centres: Tensor,
    displacement: Tensor,
    radius: Tensor | float,
    poisson: Tensor | float,
    ridge: float = 1e-3,
    real: Tensor | None = None,
    scales: Scales = "single",
    ratio: float = SCALE_RATIO,
) -> Tensor:
    """The Kelvinlet displacement (..., N, 3) at points (..., N, 3), float64, when the tools move
    the centres (..., n, 3) by displacement (..., n, 3); see `solve_constraints`."""
    strengths = solve_constraints(
        centres, displacement, radius, poisson, ridge, real, scales, ratio
    )
    return superpose(points.double(), centres.double(), strengths, radius, poisson, scales, ratio)
