"""Attention by the expected sliced plan of queries and keys (Shahbazi et al., arXiv 2502.07962).

Along a slice both sets of points are ranked and equal ranks matched: U_l = A_l^T J B_l, where A_l
and B_l are the rankings of queries and keys (see `ranking`) and J is the monotone coupling of their
ranks. The expected plan is G = sum_l w_l U_l with weights w = softmax(-tau D), D_l = <C, U_l> being
the cost of a slice's plan in the full space. What comes out is n G values, n the number of queries:
rows of n G sum to 1, and G is a plan of mass 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.transport.sliced.lifted import descending_order
from sextant.methods.transport.sliced.permuted import mixed, paired_distances, paired_products
from sextant.methods.transport.sliced.ranking import (
    HardSorting,
    LaplaceSorting,
    Ranking,
    SoftSorting,
    Sorting,
)
from sextant.methods.transport.sliced.spectral import core, ranked, spectrum, spectrum_size

CostPower = Literal[1, 2]
Coupling = Literal["exact", "interp"]

EXACT = "donot_use_mm_for_euclid_dist"
"""Distances from products would leave rounding, and a gradient of it, where points coincide."""

CHUNK_ENTRIES = 2**17
"""Numbers of the ranking matrices that are worked on at a time, where that is more than one slice
of one set: as many as stay in a CPU's cache."""

DENSE_UP_TO = 400
"""Up to so many points the matrix of a Laplace ranking is made: it takes less time than the scans
(measured for 64 slices and 64 columns of values)."""

SPECTRAL_FROM = 64
"""Beyond so many points the spectrum of SoftSort's kernel may cost less than its matrix."""

KEPT_ENTRIES = 2**21
"""So many are kept for the backward pass, which makes them again where there are more."""


Form = Callable[..., tuple[Tensor, Tensor, Tensor]]


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
    inputs = _Inputs(
        queries, keys, directions, sorting, tau, query_mask, key_mask, None if matched else coupling
    )
    form, entries = _form(inputs, values.shape[2], cost_power)
    points = max(queries.shape[1], keys.shape[1])
    if chunk is None:
        chunk = max(1, min(number, CHUNK_ENTRIES // (len(queries) * entries)))
    # The cost of every pair of points is the same for every slice.
    rest = pair_costs(queries, keys, cost_power) if form is _of_plans else values
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
    return Mixed(mixture @ values if form is _of_plans else mixture, costs)


def _streamed(
    form: Form, inputs: _Inputs, chunks: list[slice], rest: Tensor
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
        inputs: _Inputs,
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


class _Inputs(NamedTuple):
    """What every chunk of slices is made from; as in `expected_sliced_mix`."""

    queries: Tensor
    keys: Tensor
    directions: Tensor | None
    sorting: Sorting
    tau: float | Tensor
    query_mask: Tensor | None
    key_mask: Tensor | None
    coupling: Coupling | None

    def rank(self, slices: slice, dense: bool) -> tuple[Ranking, Ranking]:
        """The rankings of queries and keys along some slices."""
        scores = (
            _projected(points, self.directions, slices) for points in (self.queries, self.keys)
        )
        masks = (self.query_mask, self.key_mask)
        return tuple(
            self.sorting.rank(some, mask, dense) for some, mask in zip(scores, masks, strict=True)
        )

    def matched(self, ranks: Tensor) -> Tensor:
        """N J of what stands at the ranks of keys, (P, L, M, c) to (P, L, N, c)."""
        if self.coupling is None:
            return ranks
        sizes = _counts(self.queries, self.query_mask), _counts(self.keys, self.key_mask)
        return resampled(ranks, *sizes, self.queries.shape[1], self.coupling)

    def weighed(self, costs: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Given n D: weights of some slices (P, L') among them, the logarithm of their sum (P,) and
        costs D; or, given the logarithm of the sum over all slices, weights among all, those again
        and costs."""
        costs = costs / _counts(self.queries, self.query_mask)[:, None]
        logits = -_of_pairs(self.tau) * costs
        if total is not None:
            weights = (logits - total[:, None]).exp()
            return weights, weights, costs
        return logits.softmax(1), logits.logsumexp(1), costs


def pair_costs(queries: Tensor, keys: Tensor, power: CostPower) -> Tensor:
    """|q_i - k_j|^power, (P, N, M); the gradient is 0 where two points coincide."""
    if power == 1:
        return torch.cdist(queries, keys, compute_mode=EXACT)
    squares = queries.square().sum(-1)[..., :, None] + keys.square().sum(-1)[..., None, :]
    return squares - 2 * (queries @ keys.transpose(-1, -2))


def _of_plans(
    inputs: _Inputs, slices: slice, pair_costs: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Through the matrices U_l themselves: 2 L N^3 operations, the fewest for few points.

    Returns:
        The mean of some slices' n U (P, N, M), weighted among them, and what `_Inputs.weighed` says
        of their weights and costs; given `total`, what they add to the mean over all slices.
    """
    from_queries, from_keys = inputs.rank(slices, dense=True)
    plans = from_queries.matrices.transpose(-1, -2) @ inputs.matched(from_keys.matrices)
    flat = plans.flatten(2)
    costs = (flat @ pair_costs.flatten(1)[..., None])[..., 0]
    weights, total, costs = inputs.weighed(costs, total)
    return (weights[:, None] @ flat).view(pair_costs.shape), total, costs


def _of_ranks(
    inputs: _Inputs, slices: slice, values: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Through what stands at the ranks: no matrix but the rankings' own, if they have any.

    <C, A^T J B> for C_ij = |q_i|^2 + |k_j|^2 - 2 q_i k_j needs only A [q, |q|^2] and
    J B [k, |k|^2] as the rows of A, J and B sum to 1.

    Returns:
        As `_of_plans`, but the mean of the slices' outputs (P, N, d) in place of the plans'.
    """
    from_queries, from_keys = inputs.rank(slices, dense=False)
    queries, keys = inputs.queries, inputs.keys
    width = queries.shape[-1]
    of_queries = torch.cat((queries, queries.square().sum(-1, keepdim=True)), -1)
    of_keys = torch.cat((keys, keys.square().sum(-1, keepdim=True), values), -1)
    ranked_queries = from_queries.to_ranks(of_queries)
    ranked_keys = inputs.matched(from_keys.to_ranks(of_keys))
    products = (ranked_queries[..., :width] * ranked_keys[..., :width]).sum((-1, -2))
    squares = ranked_queries[..., width].sum(-1) + ranked_keys[..., width].sum(-1)
    weights, total, costs = inputs.weighed(squares - 2 * products, total)
    weighted = weights[..., None, None] * ranked_keys[..., width + 1 :]
    return from_queries.to_points(weighted), total, costs


def _of_spectra(
    inputs: _Inputs, slices: slice, values: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_of_ranks`, of which the rankings are SoftSort's of power 2 in their spectrum."""
    queries, keys = inputs.queries, inputs.keys
    scores = [_projected(points, inputs.directions, slices) for points in (queries, keys)]
    masks = (inputs.query_mask, inputs.key_mask)
    span = max(_span(some, mask) for some, mask in zip(scores, masks, strict=True))
    of = spectrum(span, inputs.sorting.temperature, queries)
    first, second = (ranked(some, mask, of) for some, mask in zip(scores, masks, strict=True))
    width = queries.shape[-1]
    of_queries = torch.cat((queries, queries.square().sum(-1, keepdim=True)), -1)
    of_keys = torch.cat((keys, keys.square().sum(-1, keepdim=True), values), -1)

    def summed(features: Tensor, rows: Tensor) -> Tensor:
        """F^T rows for rows (P, n, c) shared by the slices: (P, L', R, c)."""
        flat = features.transpose(-1, -2).flatten(1, 2) @ rows
        return flat.unflatten(1, (features.shape[1], -1))

    of_queries, of_keys = summed(first.features, of_queries), summed(second.features, of_keys)
    between = core(first, second)
    products = (of_queries[..., :width] @ of_keys[..., :width].transpose(-1, -2) * between).sum(
        (-1, -2)
    )
    squares = (first.shares.sum(-2) * of_queries[..., width]).sum(-1)
    squares = squares + (second.shares.sum(-2) * of_keys[..., width]).sum(-1)
    weights, total, costs = inputs.weighed(squares - 2 * products, total)
    mixed = (weights[..., None, None] * between) @ of_keys[..., width + 1 :]
    features = first.features.transpose(1, 2).flatten(2)
    return features @ mixed.flatten(1, 2), total, costs


@torch.no_grad()
def _span(scores: Tensor, mask: Tensor | None) -> float:
    """The largest range of the scores (P, L, n) of a slice of a set."""
    if mask is None:
        low, high = scores.aminmax(dim=-1)
    else:
        hidden = ~mask[:, None]
        low = scores.masked_fill(hidden, torch.inf).amin(-1)
        high = scores.masked_fill(hidden, -torch.inf).amax(-1)
    return (high - low).max().item()


def _form(inputs: _Inputs, width: int, cost_power: CostPower) -> tuple[Form, int]:
    """Which form takes least time, and numbers it works on for a slice of a set."""
    queries, keys, sorting = inputs.queries, inputs.keys, inputs.sorting
    points = max(queries.shape[1], keys.shape[1])
    width += queries.shape[2]
    if cost_power == 1:
        return _of_plans, points**2
    if isinstance(sorting, SoftSorting):
        if sorting.power == 2 and inputs.coupling is None and points > SPECTRAL_FROM:
            spans = (
                _span(_projected(some, inputs.directions, slice(None)), mask)
                for some, mask in ((queries, inputs.query_mask), (keys, inputs.key_mask))
            )
            size = spectrum_size(max(spans), sorting.temperature, queries.dtype)
            if size <= points / 2:
                return _of_spectra, points * size
        return (_of_plans, points**2) if points <= 2 * width else (_of_ranks, points**2)
    if isinstance(sorting, LaplaceSorting) and points <= DENSE_UP_TO:
        return _of_plans, points**2
    return _of_ranks, points * 2 * width


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
) -> Mixed:
    """As `expected_sliced_mix`, for as many queries as keys: every slice is a permutation."""
    scores = [_projected(points.detach(), directions, slice(None)) for points in (queries, keys)]
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
    costs = costs / _counts(queries, query_mask)[:, None]
    output = mixed(values, match, (-_of_pairs(tau) * costs).softmax(1))
    return Mixed(output, costs)
