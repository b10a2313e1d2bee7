"""What stands in a converted layer: the new attention between the layer's own projections."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention, widened
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.luna.streaming import State
from sextant.methods.attention.softmax import SoftmaxAttention, masked_softmax


class Lesson(Protocol):
    """Takes the softmax rows and the new rows of a layer while its map is being taught."""

    propagate_teacher: bool

    def take(self, teacher: Tensor, student: Tensor, key_mask: Tensor | None) -> None:
        """Rows (B, H, N, M) of one layer and its key mask (B, M)."""


class ConvertedAttention(nn.Module):
    """An attention in the place of softmax attention, every token seeing every real one.

    Args:
        attention: the new one.
        prefix: tokens at the front, such as a class token, that are no patches.
        softmax_prefix: whether their queries stay on softmax, O(M) each.
        grid: height and width of the picture's patches, which come after the prefix.
        convolution: side, odd, of a depthwise convolution of the values over the grid, added to the
            output of the patches; it starts at 0, so that it changes nothing until it is trained.
            0 is without.
        width: of all heads together, where there is a convolution.

    Raises:
        ValueError: for an even or negative side, or a convolution without a grid.
    """

    lesson: Lesson | None

    def __init__(
        self,
        attention: Attention,
        prefix: int = 0,
        softmax_prefix: bool = False,
        grid: tuple[int, int] | None = None,
        convolution: int = 0,
        width: int = 0,
    ) -> None:
        super().__init__()
        if convolution < 0 or (convolution and convolution % 2 == 0):
            raise ValueError(f"convolution must be odd, or 0 for none, got {convolution}")
        if convolution and grid is None:
            raise ValueError("convolution needs a model that cuts pictures into a grid of patches")
        self.attention, self.prefix, self.grid = attention, prefix, grid
        self.softmax_tokens = prefix if softmax_prefix else 0
        self.softmax = SoftmaxAttention()
        self.lesson = None
        self.convolution = None
        if convolution:
            self.convolution = nn.Conv2d(
                width, width, convolution, padding=convolution // 2, groups=width, bias=False
            )
            nn.init.zeros_(self.convolution.weight)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        key_mask: Tensor | None = None,
        scaling: float | None = None,
    ) -> Tensor:
        """One row of mixed values for each query.

        Args:
            queries, keys, values, key_mask: as `Attention.forward`.
            scaling: what the layer multiplies q k by; None is D^(-1/2).

        Returns:
            (B, H, N, D_v) in the dtype of the queries.
        """
        queries = rescaled(queries, scaling)
        if self.lesson is not None:
            # Taught is the map alone: nothing reaches the projections through the rows.
            fixed_queries, fixed_keys = queries.detach(), keys.detach()
            student = self.weights(fixed_queries, fixed_keys, key_mask)
            teacher = softmax_weights(fixed_queries, fixed_keys, key_mask)
            first = self.softmax_tokens
            self.lesson.take(teacher[:, :, first:], student[:, :, first:], key_mask)
            if self.lesson.propagate_teacher:
                return self.softmax(queries, keys, values, key_mask)
        output = self.attention(queries, keys, values, key_mask)
        if self.softmax_tokens:
            first = self.softmax(queries[:, :, : self.softmax_tokens], keys, values, key_mask)
            output = torch.cat((first, output[:, :, self.softmax_tokens :]), 2)
        return output if self.convolution is None else output + self._convolved(values)

    def weights_of(
        self, queries: Tensor, keys: Tensor, key_mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        """The rows (B, H, N, M) of a call, in the dtype of the queries; O(N M) memory."""
        return self.weights(rescaled(queries, scaling), keys, key_mask).to(queries.dtype)

    def weights(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
        """The rows (B, H, N, M), float32, that the output mixes values by; O(N M) memory.

        Every attention here is linear in the values, so that it is asked for the mixtures of unit
        vectors. Queries are already rescaled; the convolution is not in the rows.
        """
        count = keys.shape[2]
        units = torch.eye(count, dtype=keys.dtype, device=keys.device)
        units = units.expand(*keys.shape[:2], count, count)
        rows = self.attention(widened(queries), widened(keys), widened(units), key_mask)
        if self.softmax_tokens:
            first = softmax_weights(queries[:, :, : self.softmax_tokens], keys, key_mask)
            rows = torch.cat((first, rows[:, :, self.softmax_tokens :]), 2)
        return rows

    def _convolved(self, values: Tensor) -> Tensor:
        batch, heads, count, width = values.shape
        patches = values[:, :, self.prefix :]
        if patches.shape[2] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"patches must be {self.grid[0]} x {self.grid[1]} for the convolution, "
                f"got {patches.shape[2]} of them"
            )
        image = patches.transpose(2, 3).reshape(batch, heads * width, *self.grid)
        mixed = self.convolution(image).to(values.dtype).view(batch, heads, width, -1)
        return nn.functional.pad(mixed.transpose(2, 3), (0, 0, count - patches.shape[2], 0))


class CausalAttention(nn.Module):
    """LUNA's streaming form in a decoder's layer: a token sees itself and the real ones before it.

    With a `StreamingCache` a step costs the same however many tokens came before; with a cache that
    keeps all keys, the state of those before is summed up anew in every call.

    Args:
        attention: with a streaming form.
    """

    def __init__(self, attention: LunaAttention) -> None:
        super().__init__()
        self.attention = attention
        self.cached: StateHolder | None = None

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        key_mask: Tensor | None = None,
        scaling: float | None = None,
    ) -> Tensor:
        """As `ConvertedAttention.forward`; the queries are the last N of the M keys' tokens."""
        queries = rescaled(queries, scaling)
        holder, self.cached = self.cached, None
        before = keys.shape[2] - queries.shape[2]
        if key_mask is not None:
            key_mask = key_mask[:, -keys.shape[2] :]
        state = self.attention.start(queries, values) if holder is None else holder.state
        if state is None:
            state = self.attention.start(queries, values)
        if before:
            mask = None if key_mask is None else key_mask[:, :before]
            earlier = keys[:, :, :before]
            # What earlier tokens see is of no use here; their keys stand in for queries.
            _, state = self.attention.stream(state, earlier, earlier, values[:, :, :before], mask)
        mask = None if key_mask is None else key_mask[:, before:]
        output, state = self.attention.stream(
            state, queries, keys[:, :, before:], values[:, :, before:], mask
        )
        if holder is not None:
            holder.state = state
        return output


class StateHolder(Protocol):
    """Where a layer's state waits for the next tokens."""

    state: State | None


def rescaled(queries: Tensor, scaling: float | None) -> Tensor:
    """Queries whose products with keys, times D^(-1/2), are those of the layer's own scaling."""
    factor = 1.0 if scaling is None else scaling * queries.shape[-1] ** 0.5
    return queries if abs(factor - 1.0) < 1e-12 else queries * factor


def softmax_weights(queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
    """Softmax rows (B, H, N, M), float32 and outside of autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = widened(queries), widened(keys)
        scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        visible = None if key_mask is None else key_mask[:, None, None, :]
        return masked_softmax(scores, visible)
