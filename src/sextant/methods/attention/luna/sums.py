"""LUNA's two sums over tokens, evaluated without ever forming a feature.

With a table of lines (`piecewise`), the feature of projection i and channel l is
slopes[k, l] u_i + intercepts[k, l], k the interval of u_i. So the summary of the keys,
S[i, l] = sum_n phi_il(n) row_n, needs of every interval only the sum of its rows and that of its
rows times u: (m K) sums instead of (tokens m L) features. Reading a summary for a query is the
reverse: every (projection, interval) gets two rows of a table, and a query adds up m of each.
Both are sums of few rows out of many, which `embedding_bag` does at the speed of the cache, and
each is the other's gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sextant.methods.attention.luna.piecewise import bags, grouped, locate, narrowed

AT_A_TIME = 1 << 18
"""Numbers (heads x tokens x projections) worked on at a time; a head is never divided."""
TOKENS_TIMES_PROJECTIONS = 1 << 15
"""Numbers whose features' gradients are formed at a time."""


class Places:
    """Where numbers u (R, N, m) lie among the intervals of every (head, projection).

    Everything a sum over tokens needs to know. R here is a handful of heads, so that the tables
    stay in the cache.
    """

    def __init__(self, arguments: Tensor, intervals: Tensor, count: int) -> None:
        self.arguments, self.intervals, self.count = arguments, intervals, count
        self.heads, self.tokens, self.projections = arguments.shape
        slots = torch.arange(self.heads * self.projections, dtype=torch.int32) * count
        self.rows = intervals.int() + slots.view(self.heads, 1, self.projections)

    def gather(self, base: Tensor, lifted: Tensor) -> Tensor:
        """sum_i base[i, k] + u_i lifted[i, k], (R, N, w), of tables (R, m, K, w)."""
        rows, width = self.rows.view(-1), base.shape[-1]
        starts = torch.arange(0, len(rows) + 1, self.projections, dtype=torch.int32)
        total = bags(rows, base.reshape(-1, width), starts)
        total += bags(rows, lifted.reshape(-1, width), starts, self.arguments.reshape(-1))
        return total.view(self.heads, self.tokens, width)

    def scatter(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of rows (R, N, w), and of u_i rows, in every interval: (R, m, K, w) each."""
        # A projection's tokens are put side by side, so that the weights are read almost in order.
        places = self.rows.transpose(1, 2).reshape(-1)
        order, starts = grouped(places, self.heads * self.projections * self.count)
        weights = self.arguments.transpose(1, 2).reshape(-1).index_select(0, order)
        # Every (head, projection) has one entry a token, so its stretch of the order is known.
        first = torch.arange(self.heads * self.projections, dtype=torch.int32) * self.tokens
        head = torch.arange(self.heads, dtype=torch.int32) * self.tokens
        shift = head[:, None, None] - first.view(self.heads, self.projections, 1)
        members = (order.view(self.heads, self.projections, self.tokens) + shift).view(-1)
        flat = rows.reshape(-1, rows.shape[-1])
        shape = (self.heads, self.projections, self.count, rows.shape[-1])
        sums, lifted = bags(members, flat, starts), bags(members, flat, starts, weights)
        return sums.view(shape), lifted.view(shape)

    def slopes_along(self, slopes: Tensor, summary: Tensor, rows: Tensor) -> Tensor:
        """sum_l slopes[k, l] <summary[i, l], row>, (R, N, m): the derivative to every u_i."""
        result = torch.empty_like(self.arguments)
        channels = slopes.shape[1]
        step = max(1, TOKENS_TIMES_PROJECTIONS // self.projections)
        for head in range(self.heads):
            towards = summary[head].flatten(0, 1).T
            for start in range(0, self.tokens, step):
                some = slice(start, start + step)
                along = (rows[head, some] @ towards).view(-1, channels)
                lines = slopes.index_select(0, self.intervals[head, some].reshape(-1).int())
                products = lines.mul_(along).view(-1, self.projections, channels)
                torch.sum(products, -1, out=result[head, some])
        return result


def handfuls(arguments: Tensor) -> list[slice]:
    """Slices of the heads (R, N, m) that are worked on one after the other."""
    step = max(1, AT_A_TIME // max(1, arguments[0].numel())) if len(arguments) else 1
    return [slice(start, start + step) for start in range(0, len(arguments), step)]


class Summarise(torch.autograd.Function):
    """`apply(u (R, N, m), rows (R, N, w), knots, slopes, intercepts)`: S (R, m, L, w)."""

    @staticmethod
    def forward(
        ctx: Any,
        arguments: Tensor,
        rows: Tensor,
        knots: Tensor,
        slopes: Tensor,
        intercepts: Tensor,
    ) -> Tensor:
        intervals = narrowed(locate(arguments, knots), len(slopes))
        summary = rows.new_empty(len(rows), arguments.shape[2], slopes.shape[1], rows.shape[2])
        for some in handfuls(arguments):
            places = Places(arguments[some], intervals[some], len(slopes))
            base, lifted = places.scatter(rows[some])
            summary[some] = slopes.T @ lifted + intercepts.T @ base
        ctx.save_for_backward(arguments, intervals, rows, slopes, intercepts)
        return summary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arguments, intervals, rows, slopes, intercepts = ctx.saved_tensors
        to_arguments, to_rows, _, to_slopes, to_intercepts = ctx.needs_input_grad
        grad_arguments = torch.empty_like(arguments) if to_arguments else None
        grad_rows = torch.empty_like(rows) if to_rows else None
        grad_slopes, grad_intercepts = torch.zeros_like(slopes), torch.zeros_like(intercepts)
        for some in handfuls(arguments):
            places = Places(arguments[some], intervals[some], len(slopes))
            if grad_rows is not None:
                grad_rows[some] = places.gather(
                    intercepts @ gradient[some], slopes @ gradient[some]
                )
            if grad_arguments is not None:
                grad_arguments[some] = places.slopes_along(slopes, gradient[some], rows[some])
            if to_slopes or to_intercepts:
                base, lifted = places.scatter(rows[some])
                grad_slopes += paired(lifted, gradient[some])
                grad_intercepts += paired(base, gradient[some])
        return grad_arguments, grad_rows, None, grad_slopes, grad_intercepts


class Read(torch.autograd.Function):
    """`apply(u (R, N, m), S (R, m, L, w), knots, slopes, intercepts)`: phi S, (R, N, w)."""

    @staticmethod
    def forward(
        ctx: Any,
        arguments: Tensor,
        summary: Tensor,
        knots: Tensor,
        slopes: Tensor,
        intercepts: Tensor,
    ) -> Tensor:
        intervals = narrowed(locate(arguments, knots), len(slopes))
        output = summary.new_empty(*arguments.shape[:2], summary.shape[3])
        for some in handfuls(arguments):
            places = Places(arguments[some], intervals[some], len(slopes))
            output[some] = places.gather(intercepts @ summary[some], slopes @ summary[some])
        ctx.save_for_backward(arguments, intervals, summary, slopes, intercepts)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arguments, intervals, summary, slopes, intercepts = ctx.saved_tensors
        grad_arguments = torch.empty_like(arguments) if ctx.needs_input_grad[0] else None
        grad_summary = torch.empty_like(summary)
        grad_slopes, grad_intercepts = torch.zeros_like(slopes), torch.zeros_like(intercepts)
        for some in handfuls(arguments):
            places = Places(arguments[some], intervals[some], len(slopes))
            if grad_arguments is not None:
                grad_arguments[some] = places.slopes_along(slopes, summary[some], gradient[some])
            base, lifted = places.scatter(gradient[some])
            grad_summary[some] = slopes.T @ lifted + intercepts.T @ base
            grad_slopes += paired(lifted, summary[some])
            grad_intercepts += paired(base, summary[some])
        return grad_arguments, grad_summary, None, grad_slopes, grad_intercepts


def paired(sums: Tensor, summary: Tensor) -> Tensor:
    """The products of interval sums (R, m, K, w) and a summary (R, m, L, w), summed to (K, L)."""
    return (sums @ summary.transpose(-1, -2)).sum((0, 1))
