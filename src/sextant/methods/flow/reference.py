"""The floor of the generation tables: how far a second draw of the data is from the test data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sextant.contracts import Parent, Streams


class SecondDraw:
    """Answers with fresh target points instead of transported ones; it learns nothing.

    A perfect generator would do as well, so its score is what chance alone leaves of a distance.
    """

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Keeps the data module, which draws the points."""
        self.streams, self.data = streams, data

    def generate(self, source: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """As many target points as the source (n, *shape) has, of the classes in labels (n,).

        The points depend on the run's seed only, so every number of steps gets the same ones.
        """
        generator = self.streams.generator("second draw")
        return self.data.draw_target(len(source), generator, labels)
