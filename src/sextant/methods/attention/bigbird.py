"""Block-sparse softmax attention: window, global and random blocks (Zaheer et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sextant.methods.attention.base import Attention
from sextant.methods.attention.softmax import masked_softmax
from sextant.ranges import at_least, not_negative


class BigBirdAttention(Attention):
    """Softmax attention on a sparse graph of blocks of tokens (arXiv 2007.14062).

    The first and the last block see every key. Every other block sees itself, its two neighbours,
    the first and the last block, and `random_blocks` further ones drawn for each block and head by
    `reset_parameters` alone. With few blocks nothing is left out: this is softmax attention then.

    Blocks are counted by position, masked tokens included, so that a mask is like deleting masked
    tokens only where everything is seen. Tokens short of a full last block are filled up, masked.

    O(N block (5 + random_blocks) (D + D_v)) time and O(N (5 + random_blocks) (block + D)) memory a
    head. Nothing is learnt.

    Args:
        heads: H.
        length: the most tokens that may come.
        head_dimension: accepted and checked, else unused.
        block: tokens of a block.
        random_blocks: drawn blocks, 0 or more.

    Raises:
        ValueError: for a block below 1 or a negative number of random blocks.
    """

    masking = "by position"

    places: Tensor

    def __init__(
        self,
        heads: int,
        length: int,
        head_dimension: int | None = None,
        block: int = 64,
        random_blocks: int = 3,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, block=block)
        not_negative(random_blocks=random_blocks)
        self.block, self.random_blocks = block, random_blocks
        blocks = -(-length // block)
        self.register_buffer("places", torch.empty(heads, blocks, random_blocks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random blocks anew from torch's global generator."""
        self.places.uniform_()

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`.

        Raises:
            ValueError: unless there are as many queries as keys.
        """
        number = same_number(queries, keys)
        missing = -number % self.block
        if missing:
            if key_mask is None:
                key_mask = torch.ones(len(keys), number, dtype=torch.bool, device=keys.device)
            key_mask = functional.pad(key_mask, (0, missing), value=False)
            queries, keys, values = (
                functional.pad(rows, (0, 0, 0, missing)) for rows in (queries, keys, values)
            )
        queries = queries * queries.shape[-1] ** -0.5
        visible = None if key_mask is None else key_mask[:, None, None, :]
        blocks = queries.shape[2] // self.block
        if blocks <= 2:
            return _attended(queries, keys, values, visible)[:, :, :number]
        ends = torch.cat((queries[:, :, : self.block], queries[:, :, -self.block :]), 2)
        ends = _attended(ends, keys, values, visible)
        middle = self._middle(queries, keys, values, key_mask, blocks)
        output = torch.cat((ends[:, :, : self.block], middle, ends[:, :, self.block :]), 2)
        return output[:, :, :number]

    def seen_blocks(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Which blocks each block but the first and the last sees, of at least 3 blocks.

        Returns:
            int64 (H, blocks - 2, 5 + random_blocks) and bool of that shape, False for an entry that
            is not to be seen: it is there already, or there is no further block.
        """
        own = torch.arange(1, blocks - 1, device=self.places.device)
        first, last = torch.zeros_like(own), torch.full_like(own, blocks - 1)
        seen = torch.stack((first, own - 1, own, own + 1, last), -1)
        once = torch.ones_like(seen, dtype=torch.bool)
        once[:, 1], once[:, 3] = own > 1, own < blocks - 2
        free = blocks - once.sum(-1)
        heads = len(self.places)
        seen, once = seen.expand(heads, -1, -1), once.expand(heads, -1, -1)
        for drawn, place in enumerate(self.places[:, 1 : blocks - 1].unbind(-1)):
            left = (free - drawn).clamp(min=0)
            block = (place * left).long()
            # The block of that rank among those not seen yet: step over the seen ones from below.
            for taken in seen.masked_fill(~once, blocks).sort(-1).values.unbind(-1):
                block = block + (block >= taken)
            seen = torch.cat((seen, block.clamp(max=blocks - 1)[..., None]), -1)
            once = torch.cat((once, (left > 0).expand(heads, -1)[..., None]), -1)
        return seen, once

    def _middle(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None, blocks: int
    ) -> Tensor:
        """Outputs of all tokens but those of the first and the last block."""
        seen, once = self.seen_blocks(blocks)
        split = (blocks, self.block)
        near_keys, near_values = _picked(keys, seen, split), _picked(values, seen, split)
        visible = once[None, ..., None]
        if key_mask is not None:
            visible = visible & key_mask.unflatten(1, split)[:, seen]
        visible = visible.expand(*visible.shape[:-1], self.block).flatten(3)[:, :, :, None, :]
        own = queries.unflatten(2, split)[:, :, 1:-1]
        return _attended(own, near_keys, near_values, visible).flatten(2, 3)


def _picked(rows: Tensor, seen: Tensor, split: tuple[int, int]) -> Tensor:
    """Rows (B, H, N, D) of the blocks (H, n, s) seen: (B, H, n, s block, D)."""
    first = torch.arange(len(seen), device=seen.device)[:, None, None] * split[0]
    # Of heads and blocks as one axis, whole blocks are picked and, backwards, added up.
    blocks = rows.unflatten(2, split).flatten(1, 2)
    picked = blocks.index_select(1, (first + seen).flatten())
    return picked.unflatten(1, seen.shape).flatten(3, 4)


def _attended(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    return masked_softmax(queries @ keys.transpose(-1, -2), visible) @ values


def same_number(queries: Tensor, keys: Tensor) -> int:
    """The number of tokens of a self-attention.

    Raises:
        ValueError: unless there are as many queries as keys.
    """
    if queries.shape[2] != keys.shape[2]:
        raise ValueError(
            f"queries must be as many as the keys ({keys.shape[2]}), got {queries.shape[2]}"
        )
    return queries.shape[2]
