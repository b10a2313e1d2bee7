"""Straight paths between paired samples: t = 1 is the source, t = 0 is the data."""

from __future__ import annotations

from torch import Tensor

from sextant.methods.numerics import widened


def align(t: Tensor, samples: Tensor) -> Tensor:
    """Times (n,) shaped (n, 1, ..., 1) to multiply samples (n, *shape).

    Raises:
        ValueError: when there is not one time a sample.
    """
    if t.shape != samples.shape[:1]:
        raise ValueError(
            f"times must be ({len(samples)},), one a sample, got shape {tuple(t.shape)}"
        )
    return t.reshape(-1, *(1,) * (samples.ndim - 1))


def interpolate(source: Tensor, target: Tensor, t: Tensor) -> Tensor:
    """z_t = (1 - t) target + t source, for paired samples (n, *shape) and times (n,).

    Half precision becomes float32.

    Raises:
        ValueError: for samples of different shapes or a number of times other than n.
    """
    if source.shape != target.shape:
        raise ValueError(
            f"source and target must have one shape, got {tuple(source.shape)} "
            f"and {tuple(target.shape)}"
        )
    source, target, t = widened(source), widened(target), align(widened(t), source)
    return (1.0 - t) * target + t * source


def conditional_velocity(source: Tensor, target: Tensor) -> Tensor:
    """d z_t / dt = source - target, constant along the line of a pair; as `interpolate`."""
    return widened(source) - widened(target)
