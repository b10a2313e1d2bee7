"""A cache for generation by a converted decoder: the state of each layer, and no keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from sextant.methods.attention.luna.streaming import State
from sextant.methods.conversion.substitute import CausalAttention


class StreamingLayer(CacheLayerMixin):
    """One layer's state; its size does not depend on the number of tokens.

    `update` passes the new keys and values through and hands itself to the layer's attention, which
    reads the state and leaves the next one.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, attention: CausalAttention) -> None:
        super().__init__()
        self.attention = attention
        self.state: State | None = None
        self.tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to allocate before the first state."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, n, D) of the new tokens, as they came."""
        self.is_initialized = True
        self.tokens += key_states.shape[2]
        self.attention.cached = self
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that a mask has to speak of, and where they begin."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.tokens

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forgets all tokens."""
        self.state, self.tokens = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Chooses the rows of the batch that go on (beam search)."""
        self._map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row of the batch."""
        self._map(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows of the batch."""
        self._map(lambda tensor: tensor[indices])

    def crop(self, max_length: int) -> None:
        """Refused: a state cannot forget single tokens."""
        raise ValueError("a streaming cache cannot be cropped: its state holds a sum over tokens")

    def offload(self) -> None:
        """Moves the state to the CPU."""
        self._map(torch.Tensor.cpu)

    def prefetch(self) -> None:
        """Moves the state back to where its layer works."""
        self._map(lambda tensor: tensor.to(self.device))

    def _map(self, change: Any) -> None:
        if self.state is not None:
            self.state = State(*(change(tensor) for tensor in self.state))


class StreamingCache(Cache):
    """`past_key_values` of a converted decoder, of a size that does not grow.

    `model.generate(ids, past_key_values=StreamingCache(model))`.

    Args:
        model: from `convert`.

    Raises:
        ValueError: for a model without causal converted layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        found = [module for module in model.modules() if isinstance(module, CausalAttention)]
        if not found:
            raise ValueError("model must be a decoder that was converted, this has no such layer")
        super().__init__(layers=[StreamingLayer(attention) for attention in found])
