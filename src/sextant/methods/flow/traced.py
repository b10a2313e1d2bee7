"""A flow that says what its pairs cost in time, what its velocity is, and deals big batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.methods.flow import module
from sextant.methods.flow.module import FlowModule
from sextant.methods.signatures import passes_on_to
from sextant.methods.transport.pairs import take_pairs
from sextant.methods.transport.sliced.training import seconds_now
from sextant.ranges import at_least


@passes_on_to(FlowModule)
class TracedFlow(FlowModule):
    """A `FlowModule` with the same training, a stopwatch on its coupling and an open velocity.

    `coupling_seconds` (float64, a buffer) is the time of the coupling's `prepare` and of all its
    calls in training. It is part of the checkpoint, so a resumed run goes on counting; it is the
    one number of a run that differs between equal runs.

    With `big_batch` = m > 1 the coupling sees m batches at once, those of the steps mk .. mk+m-1.
    Their pairs are shuffled and dealt out, one batch a step, every point once. Without the shuffle
    a batch would be one slab of the order the pairs come in, and its mean far from the data's. The
    batches come from `data.draw_batch(step)`, so a resumed run deals the same hands.

    Args:
        parts, settings: of `FlowModule`.
        big_batch: batches that are paired together.

    Raises:
        ValueError: for a setting outside these ranges.
    """

    coupling_seconds: Tensor

    def __init__(
        self,
        *parts: Any,
        big_batch: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(*parts, **settings)
        at_least(1, big_batch=big_batch)
        self.big_batch = big_batch
        self.register_buffer("coupling_seconds", torch.zeros((), dtype=torch.float64))
        self._data: Any = None
        self._block = -1
        self._hands: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams and times what the coupling does with the data module.

        Raises:
            TypeError: for a data module without `draw_batch` where batches are dealt.
        """
        if self.big_batch > 1 and not callable(getattr(data, "draw_batch", None)):
            raise TypeError(
                "data must have draw_batch(step) for big_batch above 1 to pair several batches "
                f"together, got {type(data).__name__}"
            )
        self._data, self._block, self._hands = data, -1, []
        started = seconds_now(self.device)
        super().prepare(streams, parents, data)
        self.coupling_seconds.fill_(seconds_now(self.device) - started)

    def loss(
        self, source: Tensor, target: Tensor, labels: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """(loss, raw squared error) of one unpaired batch at a step.

        With `big_batch` above 1 the batch that is passed only says on which device to work: its
        points are paired with those of its neighbours, and the step gets the hand it is dealt.
        """
        if self.big_batch > 1:
            source, target, labels = self._hand(step, source.device)
        else:
            source, target, labels = self._paired(source, target, labels, step)
        times = self.streams.generator("times", step)
        return self.objective(self.network, source, target, labels, times)

    def _paired(
        self, source: Tensor, target: Tensor, labels: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The paired batch; counts the seconds its coupling takes."""
        started = seconds_now(source.device)
        generator = self.streams.generator("coupling", index)
        pairs = self.coupling(source, target, generator, labels=labels)
        self.coupling_seconds += seconds_now(source.device) - started
        return take_pairs(pairs, source, target, labels)

    def _hand(self, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """The pairs dealt to a step, a pure function of its number."""
        block, place = divmod(step, self.big_batch)
        if block != self._block:
            first = block * self.big_batch
            batches = [self._data.draw_batch(first + k) for k in range(self.big_batch)]
            sources, targets, labels = zip(*batches, strict=True)
            together = None if labels[0] is None else torch.cat(labels).to(device)
            clouds = torch.cat(sources).to(device), torch.cat(targets).to(device)
            paired = self._paired(*clouds, together, block)
            generator = self.streams.generator("deal", block)
            order = torch.randperm(len(paired[0]), generator=generator).to(device)
            self._hands = [
                tuple(None if part is None else part[rows] for part in paired)
                for rows in order.chunk(self.big_batch)
            ]
            self._block = block
        return self._hands[place]

    @torch.no_grad()
    def velocity(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """dz/dt (n, *shape) at z (n, *shape) and times t (n,), with the averaged weights.

        Time runs from 1 at the source to 0 at the data, so on a straight path the velocity is
        source - target. The result is where `z` is.
        """
        self.ema_network.eval()
        device = next(self.ema_network.parameters()).device
        chunks = []
        for first in range(0, len(z), module.CHUNK):
            rows = slice(first, first + module.CHUNK)
            asked = None if labels is None else labels[rows].to(device)
            times = t[rows].to(device)
            found = self.ema_network(z[rows].to(device), times, torch.zeros_like(times), asked)
            chunks.append(found.to(z.device))
        return torch.cat(chunks) if chunks else torch.empty_like(z)
