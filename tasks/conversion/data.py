"""What the data of every conversion exam offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from tasks.conversion.scoring import Metric, measure
from tasks.shared.stepwise import EpochOrder, StepwiseData

PARTS = ("train", "test")


class Examples(NamedTuple):
    """Inputs by name, (n, ...) each, and labels (n,): int64 classes, or float numbers."""

    inputs: dict[str, Tensor]
    labels: Tensor

    def rows(self, chosen: Tensor | slice) -> Examples:
        """Some of the examples."""
        inputs = {name: part[chosen] for name, part in self.inputs.items()}
        return Examples(inputs, self.labels[chosen])


class ConversionData(StepwiseData):
    """Examples of a task, read whole; every epoch visits all training examples in a new order.

    Args:
        batch_size, steps: of training.
        metric: how the task is scored.
        outputs: classes, or 1 for a number.
        watched: test examples, evenly spread, that the budget curve is taken on. They select
            nothing and are a part of those that the exam asks for.

    Raises:
        ValueError: for fewer than one watched example.
    """

    def __init__(
        self, batch_size: int, steps: int, metric: Metric, outputs: int, watched: int = 200
    ) -> None:
        super().__init__(batch_size, steps)
        if watched < 1:
            raise ValueError(f"watched must be at least 1, got {watched}")
        self.metric: Metric = metric
        self.outputs, self.watched = outputs, watched
        self.start: str | None = None
        self._fingerprints: dict[str, str] = {}

    def read(self) -> dict[str, Examples]:
        """The examples of each part; names what it read in `self._fingerprints`, and in
        `self.start` where a model's weights are read from."""
        raise NotImplementedError

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the examples."""
        super().prepare(streams, parents)
        self._parts = self.read()
        self._order = EpochOrder(len(self._parts["train"].labels), self.batch_size, streams)

    def fingerprints(self) -> dict[str, str]:
        """What was read."""
        return dict(self._fingerprints)

    def draw_batch(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels of a training step."""
        return tuple(self._parts["train"].rows(self._order.rows(step)))

    def examples(self, part: str) -> Examples:
        """All examples of a part.

        Raises:
            ValueError: for an unknown part.
        """
        if part not in PARTS:
            raise ValueError(f"part must be 'train' or 'test', got {part!r}")
        return self._parts[part]

    @property
    def watched_count(self) -> int:
        """How many examples `watch` looks at."""
        return min(self.watched, len(self._parts["test"].labels))

    def watch(self, ask: Callable[[dict[str, Tensor]], Tensor]) -> float:
        """The task's score of a model on the watched examples, for a curve."""
        total = len(self._parts["test"].labels)
        rows = torch.arange(self.watched_count) * total // self.watched_count
        inputs, labels = self._parts["test"].rows(rows)
        return measure(self.metric, ask(inputs).numpy(), labels.numpy())
