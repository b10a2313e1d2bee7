"""From sums over tokens to weighted means: a column of ones in, a division out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_ones(values: Tensor, key_mask: Tensor | None) -> Tensor:
    """Values (B, H, M, d_v), whose masked rows are 0, with the mask (or ones) as last column.

    The column makes the denominator of attention a part of the sums of its numerator.
    """
    if key_mask is None:
        column = values.new_ones(()).expand(*values.shape[:3], 1)
    else:
        column = key_mask[:, None, :, None].expand(*values.shape[:3], 1).to(values.dtype)
    return torch.cat((values, column), -1)


class Ratio(torch.autograd.Function):
    """`apply(sums (..., d_v + 1), epsilon, signed)`: the first d_v over the last, (..., d_v).

    The denominator is at least epsilon; where signed, at least epsilon away from 0 on its own side.
    Keeps the sums alone for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor, epsilon: float, signed: bool) -> Tensor:
        ctx.save_for_backward(sums)
        ctx.epsilon, ctx.signed = epsilon, signed
        return sums[..., :-1] / guarded(sums[..., -1:], epsilon, signed)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (sums,) = ctx.saved_tensors
        denominator, free = guarded(sums[..., -1:], ctx.epsilon, ctx.signed)
        result = torch.empty_like(sums)
        torch.div(gradient, denominator, out=result[..., :-1])
        along = (result[..., :-1] * sums[..., :-1]).sum(-1, keepdim=True)
        result[..., -1:] = torch.where(free, -along / denominator, 0.0)
        return result, None, None


def guarded(denominator: Tensor, epsilon: float, signed: bool) -> tuple[Tensor, Tensor]:
    """The denominator kept away from 0, and where that changed nothing."""
    if signed:
        free = denominator.abs() >= epsilon
        nearest = torch.where(denominator < 0, -epsilon, epsilon).to(denominator.dtype)
        return torch.where(free, denominator, nearest), free
    return denominator.clamp(min=epsilon), denominator >= epsilon
