"""An attention with its settings, at any length: a student whose cost is measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from sextant.contracts import Parent, Streams
from sextant.methods.attention.base import Attention


class FixedAttention:
    """Gives copies of one attention that is not made for a length, as it is drawn.

    Args:
        attention: any whose `length` is None.

    Raises:
        ValueError: for one that is made for a length.
    """

    def __init__(self, attention: Attention) -> None:
        if attention.length is not None:
            raise ValueError(f"attention must be made for no length, got {attention.length}")
        self._attention = attention

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Draws the weights, a function of the run's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.generator("weights").initial_seed())
            self._attention.reset_parameters()

    def attention(self) -> Attention:
        """A copy on the CPU, in evaluation mode."""
        return copy.deepcopy(self._attention).eval()
