"""SoftSort of power 2 through the spectrum of its kernel, in time linear in the number of points.

On the line exp(-x^2 / t) is, to rounding, a short sum of cosines: the trapezoidal rule of its
Fourier integral converges faster than any power of the spacing. So the kernel of n points is
F F^T with n x R features F, R growing with the points' range over sqrt(t) and not with n, and a
slice's plan n U = F_q core F_k^T with a core of R x R. No n x n matrix is made.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.transport.sliced.lifted import descending_order

LEFT_OUT = {torch.float64: 1e-15, torch.float32: 1e-6}
"""What an entry of the kernel may be off by; every row has a sum of at least 1."""


class Spectrum(NamedTuple):
    """Frequencies (K,), and the square roots of their weights (2 K + 1,): of the constant, the
    cosines, the sines."""

    frequencies: Tensor
    roots: Tensor


def spectrum_size(span: float, temperature: float, dtype: torch.dtype) -> int:
    """R for points of which no two of a set are further apart than `span`."""
    reach = math.sqrt(-math.log(LEFT_OUT[dtype]))
    return 2 * math.ceil(reach * (span / math.sqrt(temperature) + reach) / math.pi) + 1


def spectrum(span: float, temperature: float, like: Tensor) -> Spectrum:
    """The spectrum of exp(-x^2 / temperature) for |x| up to `span`; see `spectrum_size`."""
    count = spectrum_size(span, temperature, like.dtype) // 2
    reach = math.sqrt(-math.log(LEFT_OUT[like.dtype]))
    # The sum has a period; beyond the span it may be anything.
    spacing = 2 * math.pi / (span + reach * math.sqrt(temperature))
    frequencies = spacing * torch.arange(1, count + 1, dtype=torch.float64)
    weights = spacing * math.sqrt(temperature / math.pi) * (-temperature / 4 * frequencies**2).exp()
    constant = torch.tensor([0.5 * spacing * math.sqrt(temperature / math.pi)], dtype=torch.float64)
    roots = torch.cat((constant, weights, weights)).sqrt()
    return Spectrum(frequencies.to(like), roots.to(like))


class Ranked(NamedTuple):
    """A SoftSort ranking of n points in its spectrum, for every slice.

    Attributes:
        features: F (P, L, n, R), 0 for masked points.
        shares: rows of F over the sums of the kernel's rows, so that A = Pi shares F^T.
        order: the point of every rank, int64 (P, L, n).
    """

    features: Tensor
    shares: Tensor
    order: Tensor


def ranked(scores: Tensor, mask: Tensor | None, of: Spectrum) -> Ranked:
    """The ranking of scores (P, L, n) where mask (P, n) is True."""
    seen = scores.detach()
    if mask is None:
        low, high = seen.amin(-1), seen.amax(-1)
    else:
        hidden = ~mask[:, None]
        low = seen.masked_fill(hidden, torch.inf).amin(-1)
        high = seen.masked_fill(hidden, -torch.inf).amax(-1)
        seen = seen.masked_fill(hidden, -torch.inf)
    features = _Features.apply(scores - (low + high)[..., None] / 2, *of)
    if mask is not None:
        features = features.masked_fill(hidden[..., None], 0)
    sums = features @ features.sum(-2)[..., None]
    if mask is not None:
        sums = sums.masked_fill(hidden[..., None], 1)
    return Ranked(features, features / sums, descending_order(seen))


def core(queries: Ranked, keys: Ranked) -> Tensor:
    """The core (P, L, R, R) of n U = F_q core F_k^T, for as many queries as keys."""
    match = torch.empty_like(queries.order).scatter_(-1, queries.order, keys.order)
    number, size = keys.shares.shape[-2:]
    start = number * torch.arange(match.shape[0] * match.shape[1], device=match.device)
    index = (match.flatten(0, 1) + start[:, None]).flatten()
    matched = keys.shares.reshape(-1, size).index_select(0, index).view(keys.shares.shape)
    return queries.shares.transpose(-1, -2) @ matched


class _Features(torch.autograd.Function):
    """Points (..., n) to features (..., n, R) with exp(-(x_i - x_j)^2 / t) = F_i F_j."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, frequencies: Tensor, roots: Tensor) -> Tensor:
        count = len(frequencies)
        features = points.new_empty(*points.shape, 2 * count + 1)
        phases = points[..., None] * frequencies
        features[..., 0] = 1
        torch.cos(phases, out=features[..., 1 : count + 1])
        torch.sin(phases, out=features[..., count + 1 :])
        features *= roots
        ctx.save_for_backward(features, frequencies)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        features, frequencies = ctx.saved_tensors
        count = len(frequencies)
        cosines, sines = features[..., 1 : count + 1], features[..., count + 1 :]
        slope = gradient[..., count + 1 :] * cosines
        slope -= gradient[..., 1 : count + 1] * sines
        return slope @ frequencies, None, None
