"""Data modules of the generation family: laws of the plane, MNIST images, MNIST latents."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Generator, Tensor

from sextant.contracts import Parent, Streams
from sextant.data import locate
from sextant.ranges import at_least
from tasks.shared.latents import Batch, LatentMnist
from tasks.shared.mnist import as_inputs, read_mnist
from tasks.shared.plane import Law
from tasks.shared.stepwise import EpochOrder, StepwiseData

__all__ = ["LatentMnist", "MnistImages", "PlaneData"]


class PlaneData(StepwiseData):
    """Points of two laws: batches (source (B, 2), target (B, 2), None), drawn independently.

    The evaluation points depend on `evaluation_seed` alone, so every method and every run seed
    answers the same exam; modes have equal counts there, so that chance counts do not add to the
    distance.

    Args:
        source: law the flow starts from.
        target: law it should reach.
        batch_size: points in a batch.
        steps: batches of a run.
        evaluation_points: how many source and target points the exam uses.
        evaluation_seed: fixes them.
    """

    def __init__(
        self,
        source: Law,
        target: Law,
        batch_size: int,
        steps: int,
        evaluation_points: int = 2000,
        evaluation_seed: int = 2509,
    ) -> None:
        super().__init__(batch_size, steps)
        at_least(1, evaluation_points=evaluation_points)
        self.source, self.target = source, target
        self.evaluation_points, self.evaluation_seed = evaluation_points, evaluation_seed

    def draw_batch(self, step: int) -> Batch:
        """Independent source and target points of a step, and no labels."""
        source = self.draw_source(self.batch_size, self.streams.generator("source", step))
        target = self.draw_target(self.batch_size, self.streams.generator("target", step))
        return source, target, None

    def draw_source(self, n: int, generator: Generator) -> Tensor:
        """n independent source points, float32 (n, 2)."""
        return self.source.draw(n, generator)

    def draw_target(self, n: int, generator: Generator, labels: Tensor | None = None) -> Tensor:
        """n independent target points, float32 (n, 2); there are no labels to condition on."""
        if labels is not None:
            raise ValueError("labels must be None: the laws of the plane have no classes")
        return self.target.draw(n, generator)

    def evaluation_source(self) -> Tensor:
        """The fixed source points of the exam, float32 (evaluation_points, 2)."""
        generator = Streams(self.evaluation_seed).generator("evaluation source")
        return self.source.draw_balanced(self.evaluation_points, generator)

    def evaluation_target(self) -> Tensor:
        """The fixed target points of the exam, float32 (evaluation_points, 2)."""
        generator = Streams(self.evaluation_seed).generator("evaluation target")
        return self.target.draw_balanced(self.evaluation_points, generator)

    def fingerprints(self) -> dict[str, str]:
        """The two laws with their scales."""
        return {"source": repr(self.source), "target": repr(self.target)}


class MnistImages(StepwiseData):
    """MNIST images: batches (images (B, 1, 28, 28) in [0, 1], labels (B,)).

    Args:
        batch_size: images in a batch.
        steps: batches of a run.
        validation: how many of the last training images are kept out for validation.
        limit: keep only the first `limit` images of each part (quick trials); None keeps all.
    """

    def __init__(
        self, batch_size: int, steps: int, validation: int = 5000, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, steps)
        self.validation_size, self.limit = validation, limit

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Finds and reads the images."""
        super().prepare(streams, parents)
        self.folder = locate("mnist")
        parts = read_mnist(self.folder, self.validation_size, self.limit)
        self.train, self.validation, self.test = parts
        self.order = EpochOrder(len(self.train.labels), self.batch_size, streams)

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step."""
        rows = self.order.rows(step)
        return as_inputs(self.train.images[rows]), self.train.labels[rows]

    def evaluation_images(self) -> Tensor:
        """The test images, float32 (n, 1, 28, 28) in [0, 1]."""
        return as_inputs(self.test.images)

    def evaluation_labels(self) -> Tensor:
        """The labels of the test images, int64 (n,)."""
        return self.test.labels

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of the files."""
        return {"mnist": self.folder.fingerprint}
