"""An attention as it is drawn, at any length: a student whose cost is measured, not its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from sextant.contracts import Parent, Streams
from sextant.methods.attention.base import Attention
from sextant.ranges import at_least

PLAIN = (bool, int, float, str, type(None))


class UntrainedAttention:
    """Makes the attention of a length: a student that needs no training.

    Some attentions are made for a length, and what they cost depends on it. So every length gets an
    attention of its own, of the class of the one that is given, with that class's defaults.

    Args:
        attention: one of the kind, with heads and head dimension; its settings are those of every
            length and must be the defaults, however they are spelled.
        longest: the most tokens a length may have, where memory sets a bound; None for any.

    Raises:
        ValueError: for a `longest` below 1, or an attention without heads, head dimension or
            length, or with settings that are no defaults.
    """

    def __init__(self, attention: Attention, longest: int | None = None) -> None:
        if longest is not None:
            at_least(1, longest=longest)
        for name in ("heads", "head_dimension", "length"):
            if getattr(attention, name) is None:
                raise ValueError(f"attention must be made with {name}, got None")
        self.like, self.longest = attention, longest
        self._streams: Streams | None = None
        again = self._make(attention.length)
        different = set(description(attention)) ^ set(description(again))
        if different:
            raise ValueError(
                "attention must have the default settings of its class, "
                f"got others at {', '.join(sorted({entry[0] for entry in different}))}"
            )

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams, from which weights are drawn."""
        self._streams = streams

    def attention(self, length: int) -> Attention:
        """The attention for a length, on the CPU, in training mode.

        Its weights are a pure function of the run's seed and the length.

        Raises:
            ValueError: for a length above `longest`.
            RuntimeError: before `prepare`.
        """
        if self.longest is not None and length > self.longest:
            raise ValueError(f"length must be at most {self.longest}, got {length}")
        if self._streams is None:
            raise RuntimeError("call prepare(streams, parents, data) before an attention is drawn")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._streams.generator("weights", length).initial_seed())
            return self._make(length)

    def _make(self, length: int | None) -> Attention:
        return type(self.like)(
            heads=self.like.heads, head_dimension=self.like.head_dimension, length=length
        )


def description(module: nn.Module) -> Iterator[tuple[str, ...]]:
    """Plain attributes, and shapes of parameters and buffers, of a module and those inside it."""
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, PLAIN):
                yield ".".join(filter(None, (name, key))), repr(value)
    for name, parameter in module.named_parameters():
        yield name, str(tuple(parameter.shape)), str(parameter.requires_grad)
    for name, buffer in module.named_buffers():
        yield name, str(tuple(buffer.shape))
