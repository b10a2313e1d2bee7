"""Exact optimal transport between equally many points: the cheapest permutation.

An assignment stays optimal when every entry of a column is lowered by the same price. The solver
grows its permutation by shortest augmenting paths, and those are short when the prices are nearly
the optimal dual variables. So a few steps of entropic transport in float32 find prices first, and
the assignment is then solved in float64. Wrong prices would cost time, never optimality, but large
ones swallow the digits of small costs: where their rounding could matter, the prices are left out.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sextant.methods.transport.costs import comparable, flat_clouds, squared_distances
from sextant.methods.transport.ground import paired_cost
from sextant.methods.transport.pairs import Pairs, in_batch_order

PRICED_FROM = 160
"""From this many points on, prices save more time than finding them takes (measured)."""

PRICE_TEMPERATURES = (0.05, 0.01, 0.002)
"""Entropic regularisation of the steps that find prices, in units of the mean cost."""

PRICE_STEPS = 5
"""Steps at each temperature."""

ALLOWED_EXCESS = 1e-9
"""Rounding may make a permutation dearer by this share of what it costs, and no more."""

OVERRELAXATION = 1.7
"""How far a step goes, in units of a Sinkhorn step; above 1 dual variables settle sooner."""


def column_prices(cost: np.ndarray) -> np.ndarray:
    """Approximate optimal dual variables (m,) of the columns of a float64 cost (n, m).

    Overrelaxed Sinkhorn steps with falling regularisation, in float32; zeros where they overflow
    or all entries of each row agree.
    """
    with np.errstate(all="ignore"):
        reduced = cost.astype(np.float32)
        reduced -= reduced.min(1, keepdims=True)
        scale = reduced.mean()
        if not scale > 0:
            return np.zeros(cost.shape[1])
        reduced /= scale
        rows, columns = np.zeros_like(reduced[:, 0]), np.zeros_like(reduced[0])
        kernel = np.empty_like(reduced)
        for temperature in PRICE_TEMPERATURES:
            np.subtract(rows[:, None], reduced, out=kernel)
            kernel += columns
            kernel *= 1.0 / temperature
            # The bounds keep subnormal numbers (slow) and overflow out of the kernel.
            np.exp(np.clip(kernel, -60.0, 20.0, out=kernel), out=kernel)
            row_scaling = 1.0 / kernel.sum(1)
            column_scaling = 1.0 / (kernel.T @ row_scaling)
            for _ in range(PRICE_STEPS - 1):
                row_scaling *= (kernel @ column_scaling * row_scaling) ** -OVERRELAXATION
                column_scaling *= (kernel.T @ row_scaling * column_scaling) ** -OVERRELAXATION
            rows += temperature * np.log(row_scaling)
            columns += temperature * np.log(column_scaling)
        prices = np.float64(scale) * columns
    return prices if np.isfinite(prices).all() else np.zeros_like(prices)


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """Column of each row, int64 (n,), in the permutation p that minimises sum_i cost[i, p_i].

    Args:
        cost: (n, n), finite, of any sign and on any device; solved on the CPU in float64.

    Raises:
        ValueError: for a cost that is no square matrix, or not finite.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost must be a square matrix, got shape {tuple(cost.shape)}")
    return _cheapest(cost.detach().to("cpu", torch.float64).contiguous()).to(cost.device)


def _cheapest(cost: Tensor) -> Tensor:
    """Solves a float64 cost on the CPU."""
    # The solver itself would take +inf for a forbidden pair.
    if cost.numel() and not all(torch.isfinite(bound) for bound in cost.aminmax()):
        raise ValueError("cost has NaN or infinite entries; every entry must be finite")
    matrix = cost.numpy()
    if len(matrix) >= PRICED_FROM:
        prices = column_prices(matrix)
        columns = linear_sum_assignment(matrix - prices)[1]
        above_least = matrix[np.arange(len(matrix)), columns] - matrix.min(1)
        if not _drowned(np.abs(prices).max(), above_least):
            return torch.from_numpy(columns).to(torch.int64)
    return torch.from_numpy(linear_sum_assignment(matrix)[1]).to(torch.int64)


def _drowned(size: float, costs: np.ndarray) -> bool:
    """Whether rounding numbers of a size, once a row, may be more than `ALLOWED_EXCESS` of costs.

    Costs of 0 throughout are the least that there is, whatever the rounding.
    """
    total = costs.sum()
    return bool(0 < total * ALLOWED_EXCESS < len(costs) * np.finfo(np.float64).eps * size)


@torch.no_grad()
def exact_pairs(source: Tensor, target: Tensor) -> Pairs:
    """The bijection that minimises sum_k ||source_k - target_{p_k}||^2.

    Source rows keep their order. In one dimension both clouds are sorted, otherwise they are solved
    in float64 whatever the dtype of the points: with costs from a matrix product, and once more
    with costs from differences where those could have missed the optimum.

    Args:
        source, target: (n, *shape) each.

    Raises:
        TypeError, ValueError: as `flat_clouds`.
    """
    source, target = flat_clouds(source, target)
    if source.shape[1] == 1:
        return in_batch_order(monotone(source[:, 0], target[:, 0]))
    wide = comparable(source.double(), target.double(), torch.float64)
    found = _cheapest(squared_distances(*wide).cpu()).to(source.device)
    # A matrix product rounds every cost by the size of the clouds; differences round it by its own.
    costs = paired_cost(wide[0], wide[1][found], "sqeuclidean")
    size = sum(float(points.square().sum(1).max()) for points in wide)
    if _drowned(size, costs.cpu().numpy()):
        found = assign(torch.cdist(*wide, compute_mode="donot_use_mm_for_euclid_dist").square())
    return in_batch_order(found)


def monotone(source: Tensor, target: Tensor) -> Tensor:
    """The increasing map between equally many numbers: target index (n,) of each source row."""
    index = torch.empty_like(source, dtype=torch.int64)
    index[source.argsort(stable=True)] = target.argsort(stable=True)
    return index
