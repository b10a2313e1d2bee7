"""Doubly stochastic attention by expected sliced transport plans (Shahbazi et al. 2025)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.attention.base import Attention
from sextant.methods.attention.nystromformer import query_mask
from sextant.methods.transport.sliced.expected import (
    CostPower,
    Coupling,
    Mixed,
    expected_sliced_mix,
)
from sextant.methods.transport.sliced.ranking import (
    HardSorting,
    LaplaceSorting,
    Power,
    SoftSorting,
    Sorting,
)

Sorter = Literal["softsort", "lapsum", "hard"]
Slicer = Literal["axes", "frozen", "learned"]

CAUSAL = (
    "causal must be False: a doubly stochastic matrix without entries above its diagonal is the "
    "identity, so that every token would see itself alone"
)


class ESPAttention(Attention):
    """N G v, G = sum_l w_l U_l the expected sliced plan of queries and keys (arXiv 2502.07962).

    Queries and keys are clouds of equal masses. Each slice sorts both along a direction and matches
    equal ranks; w = softmax(-tau D) weighs a slice by the cost D of its plan in the full space, a
    mean over the tokens. Sorted hard, rows and columns of N G sum to 1 (columns to N / M); by
    "softsort" that holds as the temperature goes to 0, by "lapsum", a choice of ours, always.

    Where queries and keys are equally many they are the same tokens, and the key mask also says
    which queries are real: masked tokens have no mass, as if deleted.

    Softsort takes O(L N R (R + D + D_v)) time and O(N (R + D)) memory a head, R growing with the
    scores' range over the square root of the temperature; where R is near N, or the power is 1,
    O(L N M (M + D + D_v)) time and O(N M) memory. Lapsum takes O(L N (D + D_v)) time and
    O(N (D + D_v)) memory from 400 tokens on, hard O(L N (log N + D + D_v)) time and O(L N) memory.

    Args:
        heads: H.
        head_dimension: D.
        length: accepted and checked, else unused.
        sorting: "softsort", "lapsum", or "hard", which teaches queries and keys by w alone.
        temperature: of soft sorting at the start, positive, in the units of the scores (their
            square for softsort of power 2).
        final_temperature: where annealing ends, see `anneal`; None keeps the temperature.
        tau: inverse temperature of the slices' weights per unit of D, not negative: 0 weighs all
            alike, infinity leaves the cheapest.
        tokens_times_tau: multiply tau by the number of tokens, as the released code does, which
            sums D over them: its temperature T is the paper's tau = N T.
        softsort_power: 2, as published, or 1.
        cost_power: D is the mean of |q - k|^2 (2, the paper) or of |q - k| (1, the released code).
        coupling: of unlike numbers of tokens, see `expected_sliced_mix`.
        slicer: "axes", "frozen" random directions or "learned" ones, for every head its own.
        slices: how many directions; None for D, which the axes always are.
        scale: factor of queries and keys; None for D^(-1/2), as in the released code.
        evaluation: "as_trained", or "hard": sort hard in evaluation mode.
        causal: must be False.

    Raises:
        ValueError: for settings outside these ranges, causal ones with the reason.
    """

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int | None = None,
        sorting: Sorter = "softsort",
        temperature: float = 1e-3,
        final_temperature: float | None = None,
        tau: float = 10.0,
        tokens_times_tau: bool = False,
        softsort_power: Power = 2,
        cost_power: CostPower = 2,
        coupling: Coupling = "exact",
        slicer: Slicer = "axes",
        slices: int | None = None,
        scale: float | None = None,
        evaluation: Literal["as_trained", "hard"] = "as_trained",
        causal: bool = False,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        if causal:
            raise ValueError(CAUSAL)
        chosen = {
            "sorting": (sorting, get_args(Sorter)),
            "softsort_power": (softsort_power, get_args(Power)),
            "cost_power": (cost_power, get_args(CostPower)),
            "coupling": (coupling, get_args(Coupling)),
            "slicer": (slicer, get_args(Slicer)),
            "evaluation": (evaluation, ("as_trained", "hard")),
        }
        for name, (value, allowed) in chosen.items():
            if value not in allowed:
                words = " or ".join(repr(choice) for choice in allowed)
                raise ValueError(f"{name} must be {words}, got {value!r}")
        positive = {
            "temperature": temperature,
            "final_temperature": final_temperature,
            "slices": slices,
            "scale": scale,
        }
        for name, number in positive.items():
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if not 0 <= tau < float("inf"):
            raise ValueError(f"tau must be finite and not negative, got {tau}")
        if slicer == "axes" and slices not in (None, head_dimension):
            raise ValueError(
                f"slices must be the head dimension {head_dimension} or None for a slicer of "
                f"'axes', got {slices}"
            )
        self.sorting, self.softsort_power, self.cost_power = sorting, softsort_power, cost_power
        self.tau, self.tokens_times_tau, self.coupling = tau, tokens_times_tau, coupling
        self.scale = head_dimension**-0.5 if scale is None else scale
        self.evaluation, self.slicer = evaluation, slicer
        self.first_temperature, self.final_temperature = temperature, final_temperature
        # Part of the state: weights are meant for the temperature they were trained at last.
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))
        directions = torch.empty(heads, slices or head_dimension, head_dimension)
        if slicer == "learned":
            self.directions = nn.Parameter(directions)
        elif slicer == "frozen":
            self.register_buffer("directions", directions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Directions uniform on the sphere from torch's global generator; the first temperature."""
        self.temperature.fill_(self.first_temperature)
        if self.slicer != "axes":
            nn.init.normal_(self.directions)

    def anneal(self, share: float) -> None:
        """Sets the temperature for a share of training that is done, in [0, 1]: geometric from the
        first to the final one between 30 and 90 %, constant before and after."""
        if self.final_temperature is not None:
            progress = min(1.0, max(0.0, (share - 0.3) / 0.6))
            ratio = self.final_temperature / self.first_temperature
            self.temperature.fill_(self.first_temperature * ratio**progress)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`."""
        output = self._mix(queries, keys, values, key_mask).output
        return output.view(*queries.shape[:3], values.shape[3])

    @torch.no_grad()
    def slice_weights(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
        """The weights w of the slices, (B, H, L), for inputs as in `forward`."""
        mixed = self._mix(queries, keys, keys[..., :1], key_mask)
        tau = self._tau(queries, keys, key_mask)
        tau = tau[:, None] if isinstance(tau, Tensor) else tau
        return (-tau * mixed.costs).softmax(1).view(*queries.shape[:2], -1)

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None) -> Mixed:
        batch, heads = queries.shape[:2]
        if key_mask is not None:
            # A batch entry of nothing real is treated as real throughout: its values are 0.
            key_mask = key_mask | ~key_mask.any(1, keepdim=True)
        real = query_mask(queries, key_mask)
        if key_mask is not None:
            key_mask = key_mask.repeat_interleave(heads, 0)
        if real is not None:
            real = key_mask
        return expected_sliced_mix(
            (queries * self.scale).flatten(0, 1),
            (keys * self.scale).flatten(0, 1),
            values.flatten(0, 1),
            self._directions(batch, queries.dtype),
            self._sorting(),
            self._tau(queries, keys, key_mask),
            real,
            key_mask,
            self.cost_power,
            self.coupling,
        )

    def _directions(self, batch: int, dtype: torch.dtype) -> Tensor | None:
        if self.slicer == "axes":
            return None
        directions = functional.normalize(self.directions.to(dtype), dim=-1)
        return directions.repeat(batch, 1, 1)

    def _sorting(self) -> Sorting:
        if self.sorting == "hard" or (self.evaluation == "hard" and not self.training):
            return HardSorting()
        if self.sorting == "lapsum":
            return LaplaceSorting(self.temperature.item())
        return SoftSorting(self.temperature.item(), self.softsort_power)

    def _tau(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> float | Tensor:
        """tau in the paper's units, a number or one for each of the pairs (P,)."""
        if not self.tokens_times_tau:
            return self.tau
        if key_mask is None or queries.shape[2] != keys.shape[2]:
            return self.tau * queries.shape[2]
        count = key_mask.sum(1).to(queries.dtype)
        pairs = queries.shape[0] * queries.shape[1]
        return self.tau * count.repeat_interleave(pairs // len(count))
