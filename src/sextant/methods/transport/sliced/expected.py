"""Attention by the expected sliced plan of queries and keys (Shahbazi et al., arXiv 2502.07962).

Along a slice both sets of points are ranked and equal ranks matched: U_l = A_l^T J B_l, where A_l
and B_l are the rankings of queries and keys (see `ranking`) and J is the monotone coupling of their
ranks. The expected plan is G = sum_l w_l U_l with weights w = softmax(-tau D), D_l = <C, U_l> being
the cost of a slice's plan in the full space. What comes out is n G values, n the number of queries:
rows of n G sum to 1, and G is a plan of mass 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.transport.sliced.expected_forms import (
    CostPower,
    Form,
    Inputs,
    counts,
    form_of,
    of_pairs,
    pair_costs,
    projected,
    through_plans,
)
from sextant.methods.transport.sliced.lifted import descending_order
from sextant.methods.transport.sliced.permuted import mixed, paired_distances, paired_products
from sextant.methods.transport.sliced.rank_coupling import Coupling
from sextant.methods.transport.sliced.ranking import HardSorting, Sorting

CHUNK_ENTRIES = 2**17
"""Numbers of the ranking matrices that are worked on at a time, where that is more than one slice
of one set: as many as stay in a CPU's cache."""

KEPT_ENTRIES = 2**21
"""So many are kept for the backward pass, which makes them again where there are more."""


class Mixed(NamedTuple):
    """What slices make of the values: n G values (P, n, d) and each slice's cost D (P, L)."""

    output: Tensor
    costs: Tensor


def expected_sliced_mix(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    directions: Tensor | None,
    sorting: Sorting,
    tau: float | Tensor,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    cost_power: CostPower = 2,
    coupling: Coupling = "exact",
    chunk: int | None = None,
) -> Mixed:
    """n G values for P pairs of sets of points, G the expected sliced plan.

    Slices are worked on in chunks that the backward pass makes again, so that no N x M x L tensor
    exists. Hard sorting of sets of equal size takes O(L N log N + L N (D + d)) time and O(L N)
    memory.

    Args:
        queries: (P, N, D).
        keys: (P, M, D).
        values: (P, M, d).
        directions: (L, D), or (P, L, D) with directions of their own for every pair; None for the
            D axes.
        sorting: how the points of a slice are ranked.
        tau: inverse temperature, per unit of D, not negative; a number or (P,).
        query_mask: bool (P, N), True for a real point, at least one a set; None where all are.
        key_mask: bool (P, M), likewise.
        cost_power: 2 for |q - k|^2, as the paper has it, 1 for |q - k|, as its code does.
        coupling: of sets of unlike sizes: "exact", or "interp", the linear resampling of the
            released code, which is no coupling.
        chunk: slices at a time; None chooses.

    Returns:
        Output (P, N, d), 0 for masked queries, and costs (P, L) in the paper's units: means over
        the points. The released code's costs are sums: N times these.

    Raises:
        ValueError: for an unknown cost power or coupling.
    """
    if cost_power not in get_args(CostPower):
        raise ValueError(f"cost_power must be 1 or 2, got {cost_power!r}")
    if coupling not in get_args(Coupling):
        raise ValueError(f"coupling must be 'exact' or 'interp', got {coupling!r}")
    matched = _equal_sizes(queries, keys, query_mask, key_mask)
    if isinstance(sorting, HardSorting) and matched:
        return _hard(queries, keys, values, directions, tau, query_mask, key_mask, cost_power)
    number = queries.shape[-1] if directions is None else directions.shape[-2]
    inputs = Inputs(
        queries, keys, directions, sorting, tau, query_mask, key_mask, None if matched else coupling
    )
    form, entries = form_of(inputs, values.shape[2], cost_power)
    points = max(queries.shape[1], keys.shape[1])
    if chunk is None:
        chunk = max(1, min(number, CHUNK_ENTRIES // (len(queries) * entries)))
    # The cost of every pair of points is the same for every slice.
    rest = pair_costs(queries, keys, cost_power) if form is through_plans else values
    chunks = [slice(first, first + chunk) for first in range(0, number, chunk)]
    if len(queries) * number * points**2 <= KEPT_ENTRIES:
        mixture, _, costs = _streamed(form, inputs, chunks, rest)
    else:
        mixture, costs = _Recomputed.apply(
            form,
            inputs._replace(queries=None, keys=None, directions=None),
            chunks,
            queries,
            keys,
            directions,
            rest,
        )
    return Mixed(mixture @ values if form is through_plans else mixture, costs)


def _streamed(
    form: Form, inputs: Inputs, chunks: list[slice], rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over all slices, the logarithm of the sum of their weights, and all costs."""
    mixture, total, costs = form(inputs, chunks[0], rest)
    every = [costs]
    for some in chunks[1:]:
        part, more, costs = form(inputs, some, rest)
        both = torch.logaddexp(total, more)
        mixture = (total - both).exp()[:, None, None] * mixture
        mixture = mixture + (more - both).exp()[:, None, None] * part
        total = both
        every.append(costs)
    return mixture, total, torch.cat(every, 1)


class _Recomputed(torch.autograd.Function):
    """`_streamed`, of which the backward pass makes every chunk again."""

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        inputs: Inputs,
        chunks: list[slice],
        queries: Tensor,
        keys: Tensor,
        directions: Tensor | None,
        rest: Tensor,
    ) -> tuple[Tensor, Tensor]:
        whole = inputs._replace(queries=queries, keys=keys, directions=directions)
        mixture, total, costs = _streamed(form, whole, chunks, rest)
        ctx.form, ctx.inputs, ctx.chunks = form, inputs, chunks
        ctx.save_for_backward(queries, keys, directions, rest, mixture, total)
        return mixture, costs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mixture: Tensor, to_costs: Tensor) -> tuple[Tensor | None, ...]:
        *leaves, mixture, total = ctx.saved_tensors
        # With the sum of all weights held fixed a slice's weight w has the slope w (g - mean of g)
        # in its logit, g being what its own mixture gives.
        mean = (to_mixture * mixture).sum((1, 2))[:, None]
        wanted = ctx.needs_input_grad[3:]
        leaves = [
            leaf if leaf is None else leaf.detach().requires_grad_(needed)
            for leaf, needed in zip(leaves, wanted, strict=True)
        ]
        learned = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        sums = [torch.zeros_like(leaf) for leaf in learned]
        for some in ctx.chunks:
            with torch.enable_grad():
                queries, keys, directions, rest = leaves
                inputs = ctx.inputs._replace(queries=queries, keys=keys, directions=directions)
                part, weight, costs = ctx.form(inputs, some, rest, total)
                surrogate = (part * to_mixture).sum() - (weight * mean).sum()
                surrogate = surrogate + (costs * to_costs[:, some]).sum()
            found = torch.autograd.grad(surrogate, learned, allow_unused=True)
            for total_gradient, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total_gradient += gradient
        remaining = iter(sums)
        return (None, None, None, *(next(remaining) if needed else None for needed in wanted))


def _equal_sizes(
    queries: Tensor, keys: Tensor, query_mask: Tensor | None, key_mask: Tensor | None
) -> bool:
    """Whether every pair of sets has as many queries as keys."""
    if queries.shape[1] != keys.shape[1]:
        return False
    if query_mask is None and key_mask is None:
        return True
    if query_mask is key_mask:
        return True
    return bool((counts(queries, query_mask) == counts(keys, key_mask)).all())


def _hard(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    directions: Tensor | None,
    tau: float | Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    cost_power: CostPower,
) -> Mixed:
    """As `expected_sliced_mix`, for as many queries as keys: every slice is a permutation."""
    scores = [projected(points.detach(), directions, slice(None)) for points in (queries, keys)]
    scores = [
        some if mask is None else some.masked_fill(~mask[:, None], -torch.inf)
        for some, mask in zip(scores, (query_mask, key_mask), strict=True)
    ]
    # Sorted together: where points are few, calls cost more than sorting.
    order, key_order = descending_order(torch.stack(scores))
    match = torch.empty_like(order).scatter_(-1, order, key_order)
    back = None
    if torch.is_grad_enabled():
        back = torch.empty_like(order).scatter_(-1, key_order, order)
    if query_mask is not None:
        # What is masked is matched with what is masked, and costs nothing if all of it is 0.
        queries = queries.masked_fill(~query_mask[..., None], 0)
    if key_mask is not None:
        hidden = ~key_mask[..., None]
        keys, values = keys.masked_fill(hidden, 0), values.masked_fill(hidden, 0)
    if cost_power == 2:
        squares = queries.square().sum((1, 2)) + keys.square().sum((1, 2))
        costs = squares[:, None] - 2 * paired_products(queries, keys, match, back)
    else:
        costs = paired_distances(queries, keys, match)
    costs = costs / counts(queries, query_mask)[:, None]
    output = mixed(values, match, (-of_pairs(tau) * costs).softmax(1))
    return Mixed(output, costs)
