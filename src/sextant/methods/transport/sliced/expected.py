"""Attention by the expected sliced plan of queries and keys (Shahbazi et al., arXiv 2502.07962).

Along a slice both sets of points are ranked and equal ranks matched: U_l = A_l^T J B_l, where A_l
and B_l are the rankings of queries and keys (see `ranking`) and J is the monotone coupling of their
ranks. The expected plan is G = sum_l w_l U_l with weights w = softmax(-tau D), D_l = <C, U_l> being
the cost of a slice's plan in the full space. What comes out is n G values, n the number of queries:
rows of n G sum to 1, and G is a plan of mass 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sextant.methods.transport.sliced.permuted import mixed, paired_distances, paired_products
from sextant.methods.transport.sliced.ranking import HardSorting, Ranking, Sorting

CostPower = Literal[1, 2]
Coupling = Literal["exact", "interp"]

CHUNK_ENTRIES = 2**18
"""Numbers of the ranking matrices that are worked on at a time, where that is more than one slice
of one set: as many as stay in a CPU's cache."""


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
        return _hard(
            queries, keys, values, directions, tau, query_mask, key_mask, cost_power, sorting
        )
    number = queries.shape[-1] if directions is None else directions.shape[-2]
    if chunk is None:
        entries = len(queries) * (queries.shape[1] ** 2 + keys.shape[1] ** 2) // 2
        chunk = max(1, min(number, CHUNK_ENTRIES // entries))
    outputs, totals, costs = [], [], []
    for first in range(0, number, chunk):
        output, total, cost = checkpoint(
            _chunk,
            queries,
            keys,
            values,
            directions,
            slice(first, min(first + chunk, number)),
            sorting,
            tau,
            query_mask,
            key_mask,
            cost_power,
            None if matched else coupling,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        outputs.append(output)
        totals.append(total)
        costs.append(cost)
    if len(outputs) == 1:
        return Mixed(outputs[0], costs[0])
    # A chunk's output is its own weighted mean; chunks weigh what their slices weigh together.
    weights = torch.stack(totals).softmax(0)
    output = sum(
        weight[:, None, None] * part for weight, part in zip(weights, outputs, strict=True)
    )
    return Mixed(output, torch.cat(costs, 1))


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
    return bool((_counts(queries, query_mask) == _counts(keys, key_mask)).all())


def _counts(points: Tensor, mask: Tensor | None) -> Tensor:
    """How many points every set has, int64 (P,)."""
    if mask is None:
        return torch.full((len(points),), points.shape[1], device=points.device)
    return mask.sum(1)


def _projected(points: Tensor, directions: Tensor | None, slices: slice) -> Tensor:
    """Scores (P, L', N) of points (P, N, D) along some of the directions."""
    if directions is None:
        return points[..., slices].transpose(-1, -2).contiguous()
    return directions[..., slices, :] @ points.transpose(-1, -2)


def _chunk(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    directions: Tensor | None,
    slices: slice,
    sorting: Sorting,
    tau: float | Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    cost_power: CostPower,
    coupling: Coupling | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of some slices' outputs, weighted among them, the logarithm of the sum of their
    weights (P,), and their costs (P, L')."""
    from_queries = sorting.rank(_projected(queries, directions, slices), query_mask)
    from_keys = sorting.rank(_projected(keys, directions, slices), key_mask)
    sizes = _counts(queries, query_mask), _counts(keys, key_mask)

    def matched(ranks: Tensor) -> Tensor:
        if coupling is None:
            return ranks
        return resampled(ranks, *sizes, queries.shape[1], coupling)

    if cost_power == 2:
        costs, ranked = _squared_costs(queries, keys, values, from_queries, from_keys, matched)
    else:
        # Not from products: those leave rounding, and a gradient of it, where points coincide.
        distances = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
        unit = torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
        unit = unit.expand(len(keys), -1, -1)
        ranked = matched(from_keys.to_ranks(torch.cat((values, unit), -1)))
        ranked, plan = ranked.split((values.shape[-1], keys.shape[1]), -1)
        costs = (from_queries.to_ranks(distances) * plan).sum((-1, -2))
    costs = costs / sizes[0][:, None]
    logits = -_of_pairs(tau) * costs
    weights = logits.softmax(1)
    output = from_queries.to_points(weights[..., None, None] * ranked)
    return output, logits.logsumexp(1), costs


def _squared_costs(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    from_queries: Ranking,
    from_keys: Ranking,
    matched,
) -> tuple[Tensor, Tensor]:
    """Sums over the ranks (P, L') and the matched ranks' values (P, L', N, d).

    <C, A^T J B> for C_ij = |q_i|^2 + |k_j|^2 - 2 q_i k_j, which needs only A [q, |q|^2] and
    J B [k, |k|^2] as the rows of A, J and B sum to 1.
    """
    width = queries.shape[-1]
    of_queries = torch.cat((queries, queries.square().sum(-1, keepdim=True)), -1)
    of_keys = torch.cat((keys, keys.square().sum(-1, keepdim=True), values), -1)
    ranked_queries = from_queries.to_ranks(of_queries)
    ranked_keys = matched(from_keys.to_ranks(of_keys))
    products = (ranked_queries[..., :width] * ranked_keys[..., :width]).sum((-1, -2))
    squares = ranked_queries[..., width].sum(-1) + ranked_keys[..., width].sum(-1)
    return squares - 2 * products, ranked_keys[..., width + 1 :]


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


def _of_pairs(tau: float | Tensor) -> float | Tensor:
    return tau[:, None] if isinstance(tau, Tensor) else tau


def _hard(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    directions: Tensor | None,
    tau: float | Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    cost_power: CostPower,
    sorting: HardSorting,
) -> Mixed:
    """As `expected_sliced_mix`, for as many queries as keys: every slice is a permutation."""
    every = slice(None)
    order = sorting.rank(_projected(queries, directions, every), query_mask).order
    key_order = sorting.rank(_projected(keys, directions, every), key_mask).order
    match = torch.empty_like(order).scatter_(-1, order, key_order)
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
    costs = costs / _counts(queries, query_mask)[:, None]
    output = mixed(values, match, (-_of_pairs(tau) * costs).softmax(1))
    return Mixed(output, costs)
