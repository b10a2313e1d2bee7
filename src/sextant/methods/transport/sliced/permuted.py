"""Sums over many permutations of one set of points, without a matrix.

A permutation is given by the point of the other set that each point is matched with,
match int64 (P, L, N): L permutations for each of P pairs of sets of N points.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

GRAM_UP_TO = 256
"""Up to so many points all N^2 products are made first: a CPU does that faster than it gathers."""

GATHERED = 2**19
"""Numbers gathered at a time beyond that."""


def mixed(values: Tensor, match: Tensor, weights: Tensor) -> Tensor:
    """Rows sum_l weights_l values[match_l(i)] for values (P, N, c) and weights (P, L): (P, N, c).

    O(L N c) time and O(L N) memory.
    """
    pairs, slices, number = match.shape
    index = match.transpose(1, 2) + number * torch.arange(pairs, device=match.device)[:, None, None]
    return functional.embedding_bag(
        index.reshape(-1, slices),
        values.reshape(pairs * number, -1),
        mode="sum",
        per_sample_weights=weights[:, None].expand(-1, number, -1).reshape(-1, slices),
    ).view(values.shape)


def paired_products(queries: Tensor, keys: Tensor, match: Tensor, back: Tensor | None) -> Tensor:
    """Sums over i of queries_i keys[match_l(i)], (P, L), for queries and keys (P, N, D).

    Args:
        queries, keys: of one shape.
        match: which key every query is matched with.
        back: the inverse permutations, for the gradient in the keys; None where none is asked for.
    """
    return _PairedProducts.apply(queries, keys, match, back)


class _PairedProducts(torch.autograd.Function):
    """Keeps the points and the permutations alone; the gradient is two more mixtures."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, match: Tensor, back: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(queries, keys, match, back)
        pairs, slices, number = match.shape
        if number <= GRAM_UP_TO:
            products = (queries @ keys.transpose(-1, -2)).flatten(1)
            place = match + number * torch.arange(number, device=match.device)
            return products.gather(1, place.flatten(1)).view(match.shape).sum(-1)
        size = number * queries.shape[-1]
        chunk = max(1, GATHERED // size)
        sums = queries.new_empty(pairs, slices)
        for pair in range(pairs):
            row = queries[pair].reshape(-1)
            for first in range(0, slices, chunk):
                index = match[pair, first : first + chunk]
                rows = keys[pair].index_select(0, index.flatten())
                sums[pair, first : first + chunk] = rows.view(len(index), size) @ row
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        queries, keys, match, back = ctx.saved_tensors
        to_queries = mixed(keys, match, gradient) if ctx.needs_input_grad[0] else None
        to_keys = mixed(queries, back, gradient) if ctx.needs_input_grad[1] else None
        return to_queries, to_keys, None, None


def paired_distances(queries: Tensor, keys: Tensor, match: Tensor) -> Tensor:
    """Sums over i of |queries_i - keys[match_l(i)]|, (P, L); a distance of 0 has gradient 0."""
    sums = []
    for index in match.unbind(1):
        matched = keys.gather(1, index[..., None].expand(-1, -1, keys.shape[-1]))
        squares = (queries - matched).square().sum(-1)
        apart = squares > 0
        sums.append((torch.where(apart, squares, 1.0).sqrt() * apart).sum(-1))
    return torch.stack(sums, 1)
