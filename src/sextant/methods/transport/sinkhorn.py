"""Entropic optimal transport with uniform weights, and pairs drawn from its plan.

The iteration is Sinkhorn's in the log domain: a plan is exp(-(C - f_i - g_j) / epsilon) with dual
variables f and g. The steps run on a kernel that has absorbed f and g as known so far (stabilised
scaling, Schmitzer 2019, arXiv 1610.06519): a step is then two matrix-vector products instead of two
log-sum-exps, the numbers stay near 1, and no row or column underflows to zero however large the
costs are against epsilon.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sextant.methods.numerics import outside_autocast, widened
from sextant.ranges import at_least, positive

LOOK_EVERY = 5
"""Steps between looks at the scalings. A step moves the logarithm of a scaling by at most log n
or so, hence five steps cannot overflow float32 whatever the cost."""

LARGEST_SCALING = 1e6
"""Beyond this the scalings are absorbed into the dual variables."""

SMALLEST_LOG_KERNEL = -80.0
"""Smaller entries are raised to exp of this: they weigh nothing, and subnormal numbers are slow."""

ALLOWED_ROW_ERROR = 1e-3
"""Largest relative error of the mass of a row."""


@torch.no_grad()
@outside_autocast()
def sinkhorn_plan(
    cost: Tensor, epsilon: float, iterations: int, tolerance: float | None = None
) -> Tensor:
    """The plan argmin_P <P, C> + epsilon KL(P | uniform) with uniform marginals.

    Args:
        cost: (n, m), finite; float64 is computed in float64, all else in float32.
        epsilon: regularisation in the units of the cost, positive.
        iterations: most updates of (columns, rows); rows are updated last.
        tolerance: stop as soon as no column's mass is off by more than this, relative to 1/m;
            looked at every 5 iterations. None: always do all iterations.

    Returns:
        (n, m), total mass 1: rows sum to 1/n up to rounding, columns to 1/m once converged.

    Raises:
        TypeError: for a cost that is no tensor of floating-point numbers.
        ValueError: for an empty or not finite cost, or settings outside these ranges.
        FloatingPointError: when the mass of a row is off by more than 0.1 %.
    """
    cost = _checked(cost, epsilon, iterations, tolerance)
    n, m = cost.shape
    column_mass = n / m
    # Start from hard minima: afterwards every row and every column has a kernel entry 1, so that no
    # sum of kernel entries vanishes.
    rows = cost.amin(1)
    columns = (cost - rows[:, None]).amin(0)
    kernel = _kernel(cost, rows, columns, epsilon)
    row_scaling = _products(torch.ones_like(rows))
    column_scaling = _products(torch.ones_like(columns))
    for iteration in range(1, iterations + 1):
        found = kernel.T @ row_scaling
        look = iteration % LOOK_EVERY == 0
        if look and tolerance is not None:
            error = abs(found * column_scaling / column_mass - 1.0).max()
            if error <= tolerance:
                break
        column_scaling = column_mass / found
        row_scaling = 1.0 / (kernel @ column_scaling)
        if look:
            scalings = (row_scaling, column_scaling)
            if any(s.max() > LARGEST_SCALING or s.min() < 1.0 / LARGEST_SCALING for s in scalings):
                rows += epsilon * torch.as_tensor(row_scaling).log()
                columns += epsilon * torch.as_tensor(column_scaling).log()
                kernel = _kernel(cost, rows, columns, epsilon)
                column_scaling = _products(torch.ones_like(columns))
                row_scaling = 1.0 / (kernel @ column_scaling)
    row_scaling, column_scaling = torch.as_tensor(row_scaling), torch.as_tensor(column_scaling)
    plan = torch.as_tensor(kernel).mul_(row_scaling[:, None] / n).mul_(column_scaling)
    error = plan.sum(1).mul_(n).sub_(1.0).abs_().max().item()
    if not error <= ALLOWED_ROW_ERROR:
        raise FloatingPointError(
            f"a row of the Sinkhorn plan is off its mass by {error:.1e} of it, allowed "
            f"is {ALLOWED_ROW_ERROR}; epsilon = {epsilon} is too small for this cost's precision"
        )
    return plan


def _checked(cost: Tensor, epsilon: float, iterations: int, tolerance: float | None) -> Tensor:
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        raise TypeError(
            f"cost must be a tensor of floating-point numbers, got {type(cost).__name__}"
        )
    if cost.ndim != 2 or cost.numel() == 0:
        raise ValueError(f"cost must be a matrix with entries, got shape {tuple(cost.shape)}")
    if not all(torch.isfinite(bound) for bound in cost.aminmax()):
        raise ValueError("cost has NaN or infinite entries; every entry must be finite")
    positive(epsilon=epsilon)
    at_least(1, iterations=iterations)
    if tolerance is not None:
        positive(tolerance=tolerance)
    return widened(cost.detach())


def _kernel(cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float) -> Tensor | np.ndarray:
    logarithm = (rows[:, None] - cost).add_(columns).mul_(1.0 / epsilon)
    return _products(logarithm.clamp_(min=SMALLEST_LOG_KERNEL).exp_())


def _products(values: Tensor) -> Tensor | np.ndarray:
    """On the CPU the same memory as an array: its small products start sooner (measured)."""
    return values.numpy() if values.device.type == "cpu" else values


@torch.no_grad()
def sample_pairs(plan: Tensor, generator: torch.Generator) -> Tensor:
    """One column j ~ plan[i, :] / sum(plan[i, :]) for each row i: int64 (n,).

    Every target point is used equally often on average, as every column has the same mass; the
    largest entry of each row would never use some of them. The uniform numbers come from
    `generator`, which stays on its own (CPU) device, so that all devices draw alike.
    """
    levels = widened(plan).cumsum(1)
    chance = torch.rand(len(plan), 1, generator=generator, dtype=torch.float64)
    chance = chance.to(levels) * levels[:, -1:]
    index = torch.searchsorted(levels, chance, right=True)[:, 0]
    return index.clamp_(max=plan.shape[1] - 1)
