"""What the attention benchmark times: LUNA's attention step by step, and its yardstick."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sextant.methods.attention.base import linear_attention
from sextant.methods.attention.luna import sums
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.luna.feature_map import FeatureMap

HEADS, WIDTH = 2, 32
Contestant = Callable[[Tensor, Tensor, Tensor], Tensor]


def inputs(n: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values (1, HEADS, n, WIDTH), standard normal."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, HEADS, n, WIDTH)
    draws = (torch.randn(shape, generator=generator) for _ in range(3))
    return [draw.to(dtype).requires_grad_() for draw in draws]


def elu_attention(width: int | None) -> Contestant:
    """elu + 1 of a projection to `width` features, or of the tokens themselves."""
    weight = None if width is None else (torch.randn(width, WIDTH) / WIDTH**0.5).requires_grad_()

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        def features(x: Tensor) -> Tensor:
            return functional.elu(x if weight is None else x @ weight.T) + 1

        return linear_attention(features(queries), features(keys), values)

    return attend


def whole(features: Callable[[Tensor], Tensor]) -> Contestant:
    """All features of all tokens, kept for the backward pass."""
    return lambda q, k, v: linear_attention(features(q), features(k), v)


def in_pieces(features: Callable[[Tensor], Tensor], tokens: int) -> Contestant:
    """Features of some tokens at a time, computed again in the backward pass."""

    def summary(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        at_keys = features(keys)
        return at_keys.transpose(-1, -2) @ values, at_keys.sum(-2)

    def read(queries: Tensor, mixed: Tensor, total: Tensor) -> Tensor:
        at_queries = features(queries)
        return (at_queries @ mixed) / (at_queries @ total[..., None]).clamp(min=1e-6)

    def again(function: Callable[..., object], *arguments: Tensor) -> object:
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        pairs = zip(keys.split(tokens, 2), values.split(tokens, 2), strict=True)
        parts = [again(summary, *pair) for pair in pairs]
        mixed, total = sum(part[0] for part in parts), sum(part[1] for part in parts)
        return torch.cat([again(read, part, mixed, total) for part in queries.split(tokens, 2)], 2)

    return attend


def looked_up(feature_map: FeatureMap) -> Callable[[Tensor], Tensor]:
    """Features from the table by indexing it, with autograd's own gradients."""

    def features(tokens: Tensor) -> Tensor:
        table = feature_map.tabulate(tokens.dtype)
        arguments = feature_map.project(tokens)
        intervals = torch.bucketize(arguments.detach(), table.knots)
        values = arguments[..., None] * table.slopes[intervals] + table.intercepts[intervals]
        return values.flatten(-2) / math.sqrt(feature_map.projections)

    return features


def searching(attend: Contestant) -> Contestant:
    """A contestant that locates numbers in a table by `torch.bucketize`."""
    return mock.patch.object(sums, "locate", torch.bucketize)(attend.__call__)


def steps_of(luna: LunaAttention) -> dict[str, Contestant]:
    """From the map as the paper lists it to what `LunaAttention` does, one step a form."""
    feature_map = luna.feature_map

    def by_hand(tokens: Tensor) -> Tensor:
        return feature_map(tokens, feature_map.tabulate(tokens.dtype))

    return {
        "as listed: perceptron on every number": whole(feature_map),
        "pieces of 1,024 tokens, recomputed": in_pieces(feature_map, 1024),
        "table of lines, autograd's gradient": whole(looked_up(feature_map)),
        "table, gradient by hand": whole(by_hand),
        "table, by hand, pieces recomputed": in_pieces(by_hand, 1024),
        "sums without features, binary search": searching(luna),
        "sums without features = LunaAttention": luna,
    }
