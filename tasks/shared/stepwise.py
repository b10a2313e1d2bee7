"""Training batches as pure functions of the step, shared by the family's data modules.

A run that stops and goes on sees what an undisturbed run sees: set `first_step` before asking for
the loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sextant.contracts import Parent, StepBatches, Streams
from sextant.ranges import at_least


class StepwiseData(pl.LightningDataModule):
    """A data module whose training batches are drawn by step number.

    Args:
        batch_size: examples in a batch.
        steps: how many batches a whole run sees.
    """

    def __init__(self, batch_size: int, steps: int) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        at_least(0, steps=steps)
        self.batch_size, self.steps, self.first_step = batch_size, steps, 0
        self._streams: Streams | None = None

    @property
    def streams(self) -> Streams:
        """The run's random streams; there are none before `prepare`."""
        if self._streams is None:
            raise RuntimeError("call prepare(streams, parents) before anything is drawn")
        return self._streams

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Takes the run's random streams."""
        self._streams = streams

    def draw_batch(self, step: int) -> Any:
        """The training batch of a step."""
        raise NotImplementedError

    def train_dataloader(self) -> StepBatches:
        """The batches of steps first_step..steps-1; drawn in place, since a DataLoader would only
        add its cost to every step."""
        return StepBatches(self.draw_batch, self.first_step, self.steps)


class EpochOrder:
    """Which examples a step sees, when every epoch visits all examples once in a new order.

    The last examples of an epoch that fill no batch are left out of it.

    Args:
        count: examples there are.
        batch_size: examples a step sees, at most `count`.
        streams: gives the order of every epoch.
    """

    def __init__(self, count: int, batch_size: int, streams: Streams) -> None:
        if batch_size > count:
            raise ValueError(f"batch_size must be at most the {count} examples, got {batch_size}")
        self.count, self.batch_size, self.streams = count, batch_size, streams
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        """The row numbers (batch_size,) of a step."""
        epoch, position = divmod(step, self.count // self.batch_size)
        if epoch != self._epoch:
            generator = self.streams.generator("data-order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]
