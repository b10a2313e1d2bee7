"""How much one quantity says of another, given others: the coefficient of Azadkia and Chatterjee.

T(Y, Z | X) is 0 where Y is independent of Z given X, and 1 where Y is a function of Z given X
(Azadkia and Chatterjee, Annals of Statistics 2021, arXiv 1910.12327). `select` is FOCI, their
choice of features by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 1 << 25
"""Distances that are held at a time."""


def conditional_dependence(
    responses: Tensor, features: Tensor, given: Tensor | None = None
) -> float:
    """T_n(Y, Z | X) of a sample, or T_n(Y, Z) with nothing given; near 0 it can be negative.

    Distances are Euclidean in the units of the columns. Nearest neighbours that are equally near
    are decided by the order of rows, so columns without ties are wanted: the randomisation of
    L-CODEC. O(n^2) time and memory.

    Args:
        responses: (n,) Y.
        features: (n, q) Z.
        given: (n, p) X.

    Raises:
        ValueError: for fewer than 3 rows, unequal numbers of rows, or responses that are a function
            of what is given, or constant: of those the coefficient is not defined.
    """
    rows = len(responses)
    for name, columns in (("features", features), ("given", given)):
        if columns is not None and (columns.ndim != 2 or len(columns) != rows):
            raise ValueError(f"{name} must be ({rows}, columns), got {tuple(columns.shape)}")
    if rows < 3:
        raise ValueError(f"responses must have at least 3 rows, got {rows}")
    ranks = _ranks(responses)
    known = None if given is None else _squared_distances(given)
    added = _squared_distances(features)
    neighbours = _nearest(added if known is None else known + added)
    numerator, denominator = _terms(ranks, neighbours, known)
    if denominator == 0:
        raise ValueError("responses must vary beyond what is given, and they do not")
    return float(numerator / denominator)


def select(responses: Tensor, features: Tensor) -> list[int]:
    """FOCI: features in the order in which each says most of the responses beyond those before it.

    Columns are standardised first, constant ones are never chosen. The first is the one with the
    largest T(Y, Z); the choice ends where no further column has a positive T(Y, Z | chosen).
    O(n^2 p) time a chosen column, all candidates at once in pieces.

    Args:
        responses: (n,).
        features: (n, p), p at least 1.

    Returns:
        Numbers of columns; at least one, unless the responses or all columns are constant.

    Raises:
        ValueError: for fewer than 3 rows, or features that are no matrix of as many.
    """
    rows = len(responses)
    if rows < 3 or features.ndim != 2 or len(features) != rows:
        raise ValueError(
            "features must be (n, columns) with n responses, at least 3, "
            f"got {tuple(features.shape)} and {rows}"
        )
    deviation = features.std(0)
    open_ = deviation > 0
    columns = (features - features.mean(0)) / deviation.where(open_, torch.ones_like(deviation))
    ranks, chosen = _ranks(responses), []
    known: Tensor | None = None
    while open_.any():
        left = open_.nonzero()[:, 0]
        neighbours = torch.cat(
            [
                _nearest_with(columns[:, part], known)
                for part in left.split(max(1, PAIRS // rows**2))
            ]
        )
        numerators, denominator = _terms(ranks, neighbours, known)
        best = int(numerators.argmax())
        if denominator == 0 or (chosen and numerators[best] <= 0):
            break
        column = int(left[best])
        added = _squared_distances(columns[:, column, None])
        known = added if known is None else known + added
        chosen.append(column)
        open_[column] = False
    return chosen


def _ranks(responses: Tensor) -> Tensor:
    """Numbers of responses that are at most each one, float64."""
    ordered = responses.sort().values
    return torch.searchsorted(ordered, responses.contiguous(), right=True).double()


def _terms(ranks: Tensor, neighbours: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numerators (...) of neighbours (..., n), and the denominator that they share."""
    rows = len(ranks)
    lower = torch.minimum(ranks, ranks[neighbours])
    if known is None:
        # How many are at least each one; without ties that is n + 1 - rank.
        at_least = (ranks[None] >= ranks[:, None]).sum(1).double()
        return (rows * lower - at_least**2).sum(-1), (at_least * (rows - at_least)).sum()
    before = torch.minimum(ranks, ranks[_nearest(known)])
    return (lower - before).sum(-1), (ranks - before).sum()


def _squared_distances(columns: Tensor) -> Tensor:
    return sum((column[:, None] - column[None]) ** 2 for column in columns.T)


def _nearest(squared: Tensor) -> Tensor:
    """The nearest other row of each row."""
    return (squared + torch.diag(torch.full((len(squared),), torch.inf).to(squared))).argmin(1)


def _nearest_with(candidates: Tensor, known: Tensor | None) -> Tensor:
    """Nearest rows (c, n) when each candidate column (n, c) alone joins what is known."""
    columns = candidates.T
    squared = (columns[:, :, None] - columns[:, None, :]) ** 2
    if known is not None:
        squared += known
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return squared.argmin(2)
