"""Distances between two samples, as pure functions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

# The network simplex needs more pivots than its default allows on thousands of points.
MAXIMUM_PIVOTS = 10_000_000


def wasserstein2(a: Any, b: Any, squared: bool = False) -> float:
    """The exact 2-Wasserstein distance of two empirical laws, every point with the same weight.

    Solves min over plans of sum P_ij ||a_i - b_j||^2 by the network simplex of POT, in float64.

    Args:
        a: points (n, D).
        b: points (m, D).
        squared: return W2^2, the cost itself, instead of its root.

    Raises:
        ValueError: for samples that are empty, hold non-finite values or differ in dimension.
        RuntimeError: when the solver did not reach the optimum.
    """
    a, b = _sample("a", a), _sample("b", b)
    _same_dimension(a, b)
    # Imported late: POT loads every array library it finds.
    import ot
    from scipy.spatial.distance import cdist

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the solver's verdict is read from its log below
        cost, log = ot.emd2(
            [], [], cdist(a, b, "sqeuclidean"), numItermax=MAXIMUM_PIVOTS, log=True, numThreads=1
        )
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport was not solved: {log['warning']}")
    # Identical samples may leave a cost of minus one rounding error.
    cost = max(float(cost), 0.0)
    return cost if squared else math.sqrt(cost)


def frechet_distance(a: Any, b: Any) -> float:
    """Frechet distance of the Gaussians fitted to two samples (squared, as FID is reported).

    ||m_a - m_b||^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) with unbiased covariances. The
    last trace is the sum of the singular values of R_a R_b^T, where R'R = S is taken from a QR
    factorisation of the centred sample: no covariance is formed and no root of a rounding error
    is taken, so features that never vary do no harm.

    Args:
        a: points (n, D), n >= 2.
        b: points (m, D), m >= 2.

    Raises:
        ValueError: for samples with fewer than two points, non-finite values or other dimensions.
    """
    a, b = _sample("a", a, least=2), _sample("b", b, least=2)
    _same_dimension(a, b)
    factor_a, factor_b = _factor(a), _factor(b)
    shift = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    spread = float((factor_a**2).sum() + (factor_b**2).sum())
    shared = float(np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum())
    return max(shift + spread - 2 * shared, 0.0)


def _factor(points: np.ndarray) -> np.ndarray:
    """R (min(n, D), D) with R'R the unbiased covariance of the points."""
    centred = points - points.mean(0)
    return np.linalg.qr(centred, mode="r") / math.sqrt(len(points) - 1)


def _sample(name: str, points: Any, least: int = 1) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) < least or not points.shape[1]:
        raise ValueError(
            f"sample {name} must have shape (n, D) with n >= {least} and D >= 1, got {points.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError(f"sample {name} must hold finite values only")
    return points


def _same_dimension(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"samples must share a dimension, got {a.shape[1]} and {b.shape[1]}")
