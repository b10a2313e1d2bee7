"""Codes of MNIST images, drawn by steps: what flows and matchings of digits learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from sextant.contracts import Parent, Streams
from sextant.data import locate
from tasks.shared.mnist import CLASSES, as_inputs, read_mnist, stratified
from tasks.shared.stepwise import EpochOrder, StepwiseData

Batch = tuple[Tensor, Tensor, Tensor | None]
ENCODE_CHUNK = 250  # small enough to stay in a core's cache: a third faster than 1000


class LatentMnist(StepwiseData):
    """Codes of MNIST images: batches (source (B, L), latents (B, L), labels (B,)).

    The codes of the parent `autoencoder` are standardised with the mean of the training codes and
    ONE standard deviation, the root of their mean variance over the L coordinates, so that the
    geometry of the code space is kept. The source is N(0, I).

    Args:
        batch_size: codes in a batch.
        steps: batches of a run.
        evaluation_points: how many test images the exam uses, drawn with the class shares kept;
            None, or more than there are, uses all.
        evaluation_seed: fixes them and the exam's source.
        validation: how many of the last training images are left out of training.
        limit: keep only the first `limit` images of each part (quick trials); None keeps all.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        evaluation_points: int | None = None,
        evaluation_seed: int = 2509,
        validation: int = 5000,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, steps)
        self.evaluation_points, self.evaluation_seed = evaluation_points, evaluation_seed
        self.validation_size, self.limit = validation, limit

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the images and encodes the training and test parts."""
        super().prepare(streams, parents)
        if "autoencoder" not in parents:
            raise ValueError("parents must name an 'autoencoder': its codes are the data")
        self.folder = locate("mnist")
        train, _, test = read_mnist(self.folder, self.validation_size, self.limit)
        if self.evaluation_points is not None and self.evaluation_points < len(test.labels):
            generator = Streams(self.evaluation_seed).generator("evaluation rows")
            rows = stratified(test.labels, self.evaluation_points, generator)
            test = type(test)(test.images[rows], test.labels[rows])
        encode = parents["autoencoder"].load().encode
        codes = encode_images(encode, train.images)
        # In float64: the variance of 55,000 codes summed in float32 loses digits.
        self.mean = codes.double().mean(0).float()
        self.scale = float(codes.double().var(0).mean().sqrt())
        self.train_latents, self.train_labels = self.standardise(codes), train.labels
        self.test_latents = self.standardise(encode_images(encode, test.images))
        self.test = test
        self.rows_of_class = [
            (train.labels == label).nonzero().flatten() for label in range(CLASSES)
        ]
        self.order = EpochOrder(len(train.labels), self.batch_size, streams)

    def standardise(self, codes: Tensor) -> Tensor:
        """Codes (n, L) of the autoencoder as latents (n, L)."""
        return (codes - self.mean) / self.scale

    def to_codes(self, latents: Tensor) -> Tensor:
        """Latents (n, L) as codes (n, L) the autoencoder can decode."""
        return latents * self.scale + self.mean

    def draw_batch(self, step: int) -> Batch:
        """A normal draw, latents and labels of a step."""
        rows = self.order.rows(step)
        source = self.draw_source(self.batch_size, self.streams.generator("source", step))
        return source, self.train_latents[rows], self.train_labels[rows]

    def draw_source(self, n: int, generator: Generator) -> Tensor:
        """n points of N(0, I), float32 (n, L)."""
        return torch.randn(n, self.train_latents.shape[1], generator=generator)

    def draw_target(self, n: int, generator: Generator, labels: Tensor | None = None) -> Tensor:
        """n training latents (n, L): of any class, or of the classes that `labels` (n,) names.

        Raises:
            ValueError: for labels of another length or of a class without training latents.
        """
        if labels is None:
            rows = torch.randint(len(self.train_labels), (n,), generator=generator)
            return self.train_latents[rows]
        if labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
        choices = torch.rand(n, generator=generator)
        rows = torch.empty(n, dtype=torch.int64)
        for label in labels.unique().tolist():
            members = self.rows_of_class[label] if 0 <= label < CLASSES else []
            if not len(members):
                raise ValueError(f"labels hold {label}, a class without training latents")
            asked = labels == label
            rows[asked] = members[(choices[asked] * len(members)).long()]
        return self.train_latents[rows]

    def draw_labels(self, n: int, generator: Generator) -> Tensor:
        """n labels with the class shares of the training images, int64 (n,)."""
        return self.train_labels[torch.randint(len(self.train_labels), (n,), generator=generator)]

    def evaluation_source(self) -> Tensor:
        """The fixed source points of the exam, float32 (n, L)."""
        generator = Streams(self.evaluation_seed).generator("evaluation source")
        return self.draw_source(len(self.test_latents), generator)

    def evaluation_target(self) -> Tensor:
        """The latents of the test images, float32 (n, L)."""
        return self.test_latents

    def evaluation_labels(self) -> Tensor:
        """The labels of the test images, int64 (n,)."""
        return self.test.labels

    def evaluation_images(self) -> Tensor:
        """The test images, float32 (n, 1, 28, 28) in [0, 1]."""
        return as_inputs(self.test.images)

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of the files; the autoencoder is named by the run's parents."""
        return {"mnist": self.folder.fingerprint}


@torch.no_grad()
def encode_images(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Codes float32 (n, L) of images uint8 (n, 28, 28), in chunks.

    Raises:
        FloatingPointError: when a code is not finite, so the autoencoder diverged.
    """
    codes = torch.cat([encode(as_inputs(chunk)).float() for chunk in images.split(ENCODE_CHUNK)])
    if not torch.isfinite(codes).all():
        raise FloatingPointError("codes of the autoencoder are not finite, so it diverged")
    return codes
