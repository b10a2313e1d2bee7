"""What a trained network's attentions look like: their matrices and how stochastic those are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention

SMALLEST = 1e-12
"""Weights count as no smaller in an entropy."""


def outermost(network: nn.Module) -> list[Attention]:
    """The attentions of a network that are in no other attention, in its order."""
    found: list[Attention] = []
    inner: set[int] = set()
    for module in network.modules():
        if isinstance(module, Attention) and id(module) not in inner:
            found.append(module)
            inner |= {id(part) for part in module.modules()}
    return found


def weights(
    attention: Attention, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None
) -> Tensor:
    """The matrix (B, H, N, M) that an attention mixes values by, for inputs as in its `forward`.

    An attention may say it itself by a method of this name; of others it is what they make of the
    unit matrix.
    """
    own = getattr(attention, "weights", None)
    if own is not None:
        return own(queries, keys, key_mask)
    unit = torch.eye(keys.shape[2], dtype=keys.dtype, device=keys.device)
    return attention(queries, keys, unit.expand(*keys.shape[:2], -1, -1).contiguous(), key_mask)


@torch.no_grad()
def inputs_of(
    network: nn.Module, among: list[Attention], ask: Callable[[], object]
) -> list[tuple[Tensor, ...]]:
    """What some attentions of a network are called with while it is asked, in this order."""
    found: dict[int, tuple[Tensor, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: found.update({id(module): inputs}) or None
        )
        for module in among
    ]
    training = network.training
    network.eval()
    ask()
    network.train(training)
    for hook in hooks:
        hook.remove()
    return [found[id(module)] for module in among]


@torch.no_grad()
def matrices(network: nn.Module, ask: Callable[[], object]) -> list[Tensor]:
    """The matrix of every outermost attention while a network without masks is asked."""
    attentions = outermost(network)
    training = network.training
    every = inputs_of(network, attentions, ask)
    network.eval()
    found = [
        weights(attention, *inputs[:2]) for attention, inputs in zip(attentions, every, strict=True)
    ]
    network.train(training)
    return found


@torch.no_grad()
def diagnostics(network: nn.Module, ask: Callable[[], object]) -> dict[str, float]:
    """How a network's attentions weigh their tokens while it is asked, means over its layers.

    - `row_defect` and `column_defect`: the largest difference of a row's sum from 1 and of a
      column's from N / M;
    - `entropy`: of a row's weights (their sizes, where some are negative), as a share of the
      largest there can be, log M;
    - where slices are weighed, `effective_slices`: exp of the entropy of their weights;
    - where they are sorted softly, `relative_temperature`: the temperature over the variance of a
      head's scores (its root over their deviation, where it is in their own units).
    """
    found: dict[str, list[float]] = {}

    def note(name: str, value: Tensor | float) -> None:
        found.setdefault(name, []).append(float(value))

    for matrix in matrices(network, ask):
        rows, columns = matrix.shape[-2:]
        note("row_defect", (matrix.sum(-1) - 1).abs().max())
        note("column_defect", (matrix.sum(-2) - rows / columns).abs().max())
        sizes = matrix.abs() / matrix.abs().sum(-1, keepdim=True).clamp(min=SMALLEST)
        note("entropy", entropy(sizes).mean() / math.log(max(2, columns)))
    sliced = [module for module in network.modules() if hasattr(module, "slice_weights")]
    for module, inputs in zip(sliced, inputs_of(network, sliced, ask), strict=True):
        queries, keys = inputs[:2]
        note("effective_slices", entropy(module.slice_weights(queries, keys, None)).exp().mean())
        if module.sorting != "hard":
            deviation = (queries * module.scale).var(2).mean().clamp(min=SMALLEST).sqrt()
            power = module.softsort_power if module.sorting == "softsort" else 1
            note("relative_temperature", module.temperature / deviation**power)
    return {name: sum(values) / len(values) for name, values in found.items()}


def entropy(shares: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats."""
    return -(shares * shares.clamp(min=SMALLEST).log()).sum(-1)
