"""Doubly stochastic attention of low rank by optimal transport (Shahbazi et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sextant.methods.attention.base import Attention
from sextant.methods.attention.nystromformer import query_mask
from sextant.ranges import at_least, positive


class LOTFormerAttention(Attention):
    """N P diag(1 / s) R v, entropic plans P: Q to Z and R: Z to K (arXiv 2509.23436).

    Z are learned pivots of masses s; queries and keys have equal masses. The cost is -q z / sqrt(D)
    (the squared distance differs from it by terms of one side, which no plan sees). Sinkhorn's
    iteration runs in the log domain; the last step fits the queries' masses in P and the pivots' in
    R, so that every row of the attention sums to 1 whatever the iterations, and every column to
    N / M once they have converged.

    Where queries and keys are equally many they are the same tokens, and the key mask also says
    which queries are real: masked tokens have no mass, as if deleted.

    O((N + M) r (D + D_v + iterations)) time and O((N + M) r) memory a head, in training too, as the
    backward pass recomputes the iterations; H r (D + 1) parameters.

    Args:
        heads: H.
        head_dimension: D.
        length: accepted and checked, else unused.
        pivots: r; the printed rows have 4 to 64 by task.
        regularisation: of both plans, in units of the cost, positive.
        iterations: of Sinkhorn in both plans.
        learned_masses: False keeps s uniform, as the code behind the printed rows does.

    Raises:
        ValueError: for settings outside these ranges.
    """

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int | None = None,
        pivots: int = 32,
        regularisation: float = 0.1,
        iterations: int = 50,
        learned_masses: bool = True,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, pivots=pivots, iterations=iterations)
        positive(regularisation=regularisation)
        self.regularisation, self.iterations = regularisation, iterations
        self.pivots = nn.Parameter(torch.empty(heads, pivots, head_dimension))
        masses = torch.zeros(heads, pivots)
        if learned_masses:
            self.masses = nn.Parameter(masses)
        else:
            self.register_buffer("masses", masses)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Pivots standard normal from torch's global generator, masses uniform."""
        nn.init.normal_(self.pivots)
        nn.init.zeros_(self.masses)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        pivots, masses = self.pivots.to(queries.dtype), self.masses.to(queries.dtype)
        factor = queries.shape[-1] ** -0.5 / self.regularisation
        log_masses = masses.log_softmax(-1)
        scores = queries @ pivots.transpose(-1, -2) * factor
        hidden, number = _hidden(scores, query_mask(queries, key_mask))
        to_pivots = scores + self._potentials(scores, log_masses + number.log(), hidden)
        scores = keys @ pivots.transpose(-1, -2) * factor
        hidden, number = _hidden(scores, key_mask)
        potentials = self._potentials(scores, log_masses + number.log(), hidden)
        to_keys = _fitted_rows(scores, potentials, hidden).softmax(2)
        return to_pivots.softmax(-1) @ (to_keys.transpose(-1, -2) @ values)

    def _potentials(self, scores: Tensor, log_masses: Tensor, hidden: Tensor | None) -> Tensor:
        """The pivots' dual variables (B, H, 1, r) for scores (B, H, N, r) = -cost / regularisation.

        Masses are in units of a token's. Each step fits the tokens' masses, then the pivots'.
        """
        potentials = torch.zeros_like(scores[:, :, :1])
        log_masses = log_masses[..., None, :]
        for _ in range(self.iterations):
            # The backward pass recomputes a step: what is kept of it is as small as the potentials.
            potentials = checkpoint(
                _step,
                scores,
                potentials,
                log_masses,
                hidden,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return potentials


def _step(scores: Tensor, potentials: Tensor, log_masses: Tensor, hidden: Tensor | None) -> Tensor:
    rows = _fitted_rows(scores, potentials, hidden)
    return log_masses - rows.logsumexp(2, keepdim=True)


def _fitted_rows(scores: Tensor, potentials: Tensor, hidden: Tensor | None) -> Tensor:
    """Logarithms of the plan less the pivots' part, such that every token's mass is 1."""
    rows = scores - (scores + potentials).logsumexp(-1, keepdim=True)
    return rows if hidden is None else rows.masked_fill(hidden, -torch.inf)


def _hidden(scores: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Which rows have no mass, (B, 1, N, 1), and how many have some, (B, 1, 1) or ().

    A batch entry of nothing real is treated as real throughout: its values are 0.
    """
    if mask is None:
        return None, scores.new_tensor(float(scores.shape[2]))
    mask = mask | ~mask.any(1, keepdim=True)
    return ~mask[:, None, :, None], mask.sum(1).to(scores.dtype)[:, None, None]
