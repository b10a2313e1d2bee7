"""The forms in which slices of an expected plan are computed, and which takes least time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sextant.methods.transport.sliced.rank_coupling import Coupling, resampled
from sextant.methods.transport.sliced.ranking import LaplaceSorting, Ranking, SoftSorting, Sorting
from sextant.methods.transport.sliced.spectral import core, ranked, spectrum, spectrum_size

CostPower = Literal[1, 2]

EXACT = "donot_use_mm_for_euclid_dist"
"""Distances from products would leave rounding, and a gradient of it, where points coincide."""

DENSE_UP_TO = 400
"""Up to so many points the matrix of a Laplace ranking is made: it takes less time than the scans
(measured for 64 slices and 64 columns of values)."""

SPECTRAL_FROM = 64
"""Beyond so many points the spectrum of SoftSort's kernel may cost less than its matrix."""

Form = Callable[..., tuple[Tensor, Tensor, Tensor]]


def counts(points: Tensor, mask: Tensor | None) -> Tensor:
    """How many points every set has, int64 (P,)."""
    if mask is None:
        return torch.full((len(points),), points.shape[1], device=points.device)
    return mask.sum(1)


def projected(points: Tensor, directions: Tensor | None, slices: slice) -> Tensor:
    """Scores (P, L', N) of points (P, N, D) along some of the directions."""
    if directions is None:
        return points[..., slices].transpose(-1, -2).contiguous()
    return directions[..., slices, :] @ points.transpose(-1, -2)


class Inputs(NamedTuple):
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
            projected(points, self.directions, slices) for points in (self.queries, self.keys)
        )
        masks = (self.query_mask, self.key_mask)
        return tuple(
            self.sorting.rank(some, mask, dense) for some, mask in zip(scores, masks, strict=True)
        )

    def matched(self, ranks: Tensor) -> Tensor:
        """N J of what stands at the ranks of keys, (P, L, M, c) to (P, L, N, c)."""
        if self.coupling is None:
            return ranks
        sizes = counts(self.queries, self.query_mask), counts(self.keys, self.key_mask)
        return resampled(ranks, *sizes, self.queries.shape[1], self.coupling)

    def weighed(self, costs: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Given n D: weights of some slices (P, L') among them, the logarithm of their sum (P,) and
        costs D; or, given the logarithm of the sum over all slices, weights among all, those again
        and costs."""
        costs = costs / counts(self.queries, self.query_mask)[:, None]
        logits = -of_pairs(self.tau) * costs
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


def through_plans(
    inputs: Inputs, slices: slice, pair_costs: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Through the matrices U_l themselves: 2 L N^3 operations, the fewest for few points.

    Returns:
        The mean of some slices' n U (P, N, M), weighted among them, and what `Inputs.weighed` says
        of their weights and costs; given `total`, what they add to the mean over all slices.
    """
    from_queries, from_keys = inputs.rank(slices, dense=True)
    plans = from_queries.matrices.transpose(-1, -2) @ inputs.matched(from_keys.matrices)
    flat = plans.flatten(2)
    costs = (flat @ pair_costs.flatten(1)[..., None])[..., 0]
    weights, total, costs = inputs.weighed(costs, total)
    return (weights[:, None] @ flat).view(pair_costs.shape), total, costs


def through_ranks(
    inputs: Inputs, slices: slice, values: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Through what stands at the ranks: no matrix but the rankings' own, if they have any.

    <C, A^T J B> for C_ij = |q_i|^2 + |k_j|^2 - 2 q_i k_j needs only A [q, |q|^2] and
    J B [k, |k|^2] as the rows of A, J and B sum to 1.

    Returns:
        As `through_plans`, but the mean of the slices' outputs (P, N, d) in place of the plans'.
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


def through_spectra(
    inputs: Inputs, slices: slice, values: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `through_ranks`, of which the rankings are SoftSort's of power 2 in their spectrum."""
    queries, keys = inputs.queries, inputs.keys
    scores = [projected(points, inputs.directions, slices) for points in (queries, keys)]
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


def form_of(inputs: Inputs, width: int, cost_power: CostPower) -> tuple[Form, int]:
    """Which form takes least time, and numbers it works on for a slice of a set."""
    queries, keys, sorting = inputs.queries, inputs.keys, inputs.sorting
    points = max(queries.shape[1], keys.shape[1])
    width += queries.shape[2]
    if cost_power == 1:
        return through_plans, points**2
    if isinstance(sorting, SoftSorting):
        if sorting.power == 2 and inputs.coupling is None and points > SPECTRAL_FROM:
            spans = (
                _span(projected(some, inputs.directions, slice(None)), mask)
                for some, mask in ((queries, inputs.query_mask), (keys, inputs.key_mask))
            )
            size = spectrum_size(max(spans), sorting.temperature, queries.dtype)
            if size <= points / 2:
                return through_spectra, points * size
        return (through_plans, points**2) if points <= 2 * width else (through_ranks, points**2)
    if isinstance(sorting, LaplaceSorting) and points <= DENSE_UP_TO:
        return through_plans, points**2
    return through_ranks, points * 2 * width


def of_pairs(tau: float | Tensor) -> float | Tensor:
    return tau[:, None] if isinstance(tau, Tensor) else tau
