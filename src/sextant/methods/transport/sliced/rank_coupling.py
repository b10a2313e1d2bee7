"""The coupling of the ranks of two sets of unequal sizes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Coupling = Literal["exact", "interp"]


def resampled(
    ranks: Tensor, query_counts: Tensor, key_counts: Tensor, rows: int, coupling: Coupling
) -> Tensor:
    """N J applied to numbers at the ranks of keys, J the coupling of the ranks.

    "exact": the monotone coupling of two uniform measures: rank r of n queries holds what lies in
    [r / n, (r + 1) / n) when the keys share [0, 1] evenly. "interp": linear interpolation between
    sorted keys at evenly spaced places of [0, 1], rows sum to 1, columns do not.

    Args:
        ranks: (P, L, M, c), 0 beyond a set's keys.
        query_counts, key_counts: (P,) int64, at least 1.
        rows: N, the ranks asked for; those beyond a set's queries are 0.
        coupling: which.

    Returns:
        (P, L, N, c).
    """
    place = torch.arange(rows + (coupling == "exact"), device=ranks.device, dtype=torch.int64)
    query_counts, key_counts = query_counts[:, None], key_counts[:, None]
    if coupling == "exact":
        # Places r m / n as whole numbers and remainders, exact; the integral of a step function.
        scaled = torch.minimum(place, query_counts) * key_counts
        whole = scaled // query_counts
        part = ((scaled % query_counts).to(ranks) / query_counts)[:, None, :, None]
        sums = torch.nn.functional.pad(ranks.cumsum(-2), (0, 0, 1, 0))
        last = torch.nn.functional.pad(ranks, (0, 0, 0, 1))
        found = _rows(sums, whole) + part * _rows(last, whole)
        return found.diff(dim=-2) * (query_counts.to(ranks) / key_counts)[:, None, :, None]
    last = (query_counts - 1).clamp(min=1)
    scaled = torch.minimum(place, last) * (key_counts - 1)
    # A single query stands in the middle of the keys.
    alone = query_counts == 1
    whole = torch.where(alone, (key_counts - 1) // 2, scaled // last)
    part = torch.where(
        alone, ((key_counts - 1) % 2).to(ranks) / 2, (scaled % last).to(ranks) / last
    )
    after = torch.minimum(whole + 1, key_counts - 1)
    part = part[:, None, :, None]
    found = (1 - part) * _rows(ranks, whole) + part * _rows(ranks, after)
    return found * (place < query_counts).to(ranks)[:, None, :, None]


def _rows(ranks: Tensor, index: Tensor) -> Tensor:
    """Rows (P, L, N, c) of ranks (P, L, M, c) at index (P, N)."""
    index = index[:, None, :, None].expand(-1, ranks.shape[1], -1, ranks.shape[-1])
    return ranks.gather(2, index)
