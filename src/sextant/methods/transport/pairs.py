"""Pairs of source and target points, the one thing a coupling may return."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Point `source_index[k]` of the source goes with point `target_index[k]` of the target.

    Both are int64 (n,). For a bijection `source_index` counts 0, 1, .., n-1, so that the source
    keeps the order of its batch.
    """

    source_index: Tensor
    target_index: Tensor


def in_batch_order(target_index: Tensor) -> Pairs:
    """Source point k with target point `target_index[k]`, for every k."""
    return Pairs(torch.arange(len(target_index), device=target_index.device), target_index)


def take_pairs(
    pairs: Pairs, source: Tensor, target: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The paired source (n, *shape), target (n, *shape) and labels (n,); labels go with the target.

    Raises:
        TypeError: for anything but `Pairs` of integer indices. Points are refused in particular:
            barycentric projections are averages of data points, no data points, and a flow trained
            on them learns a law with less variance than the data have.
        ValueError: for indices that are no two vectors of one length.
    """
    if not isinstance(pairs, Pairs):
        raise TypeError(
            f"pairs must be Pairs of row indices, got {type(pairs).__name__}; projected points "
            "(barycentric maps) do not follow the data's law and are never trained on"
        )
    for name, index in zip(Pairs._fields, pairs, strict=True):
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            found = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"{name} must be an int64 tensor of row numbers, got {found}")
    if pairs.source_index.ndim != 1 or pairs.source_index.shape != pairs.target_index.shape:
        shapes = f"{tuple(pairs.source_index.shape)} and {tuple(pairs.target_index.shape)}"
        raise ValueError(
            f"source_index and target_index must be vectors of one length, got {shapes}"
        )
    follow = None if labels is None else labels[pairs.target_index]
    return source[pairs.source_index], target[pairs.target_index], follow
