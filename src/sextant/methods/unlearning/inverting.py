"""Model inversion as a student of its own, so that many unlearning runs share its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sextant.contracts import Parent, Streams
from sextant.methods.unlearning.epochs import Seconds
from sextant.methods.unlearning.inversion import Inversion, Inverted
from sextant.methods.unlearning.problem import Examples, PixelSpace

PURPOSE = "covarnav/inversion"
"""The stream the images are drawn from, that of CovarNav's own inversion."""


class InversionStudent(nn.Module):
    """Draws images from the parent "original" before its exam, of the classes that are kept.

    Where classes are forgotten whole, of all others; where a random share is, of all. The data
    module offers `classes`, `forgotten_classes`, `channels`, `mean`, `deviation` and
    `examples("forgotten")`, of which only the shape is looked at.

    Args:
        inversion: draws the images.
    """

    def __init__(self, inversion: Inversion) -> None:
        super().__init__()
        self.inversion = inversion
        self.inverted: Inverted | None = None
        self.seconds = 0.0

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Draws the images."""
        network, spent = parents["original"].load().network, Seconds()
        kept = [label for label in range(data.classes) if label not in data.forgotten_classes]
        with spent.part("inversion"):
            self.inverted = self.inversion(
                network,
                kept,
                tuple(data.examples("forgotten")[0].shape[1:]),
                pixel_space(data),
                streams.generator(PURPOSE),
            )
        self.seconds = spent["inversion"]

    @property
    def images(self) -> Examples:
        """What was drawn, with the labels it was drawn for."""
        return self.inverted.examples

    def get_extra_state(self) -> dict[str, Any]:
        """The images, what is known of them, and the processor time they took."""
        if self.inverted is None:
            return {}
        examples, report = self.inverted.examples, dict(self.inverted.report)
        tensors = {"inputs": examples.inputs, "labels": examples.labels}
        return tensors | {"report": report, "seconds": self.seconds}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_extra_state` gave."""
        if state:
            self.inverted = Inverted(Examples(state["inputs"], state["labels"]), state["report"])
            self.seconds = state["seconds"]


def drawn_before(student: InversionStudent) -> Any:
    """An inversion that hands out the images of a finished run, whatever it is asked for.

    Noise is drawn as that run's inversion would have.
    """
    return _Drawn(student)


class _Drawn:
    def __init__(self, student: InversionStudent) -> None:
        self.student, self.noise = student, student.inversion.noise

    def __call__(self, *_: Any) -> Inverted:
        return self.student.inverted


def pixel_space(data: Any) -> PixelSpace:
    """How pixels became inputs, by the `mean` and `deviation` of a data module."""
    return PixelSpace((data.mean,) * data.channels, (data.deviation,) * data.channels)
