"""Labelled pictures in three parts, of which training may see a share."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from sextant.data import DataFolder, locate
from tasks.shared.cache import cached
from tasks.shared.fashion import fashion_mnist
from tasks.shared.mnist import read_mnist
from tasks.shared.pictures import Pictures, smaller
from tasks.shared.stepwise import EpochOrder, StepwiseData

PARTS = ("train", "validation", "test")
SPLIT_SEED = 0
"""Of the photos, and of which few are seen: the same for every run and every method."""
VERSION = 1


class PictureData(StepwiseData):
    """Pictures as inputs (pixel / 255 - mean) / deviation, a share of the training part in use.

    The share is of every class, and smaller shares are parts of larger ones. Where it holds fewer
    pictures than a batch, a batch is drawn from several epochs' worth of them.

    Args:
        batch_size, steps: of training.
        share: of the training part that training sees, in (0, 1].
        flip: mirror every picture of a training batch with probability one half.
        limit: keep only the first pictures of each part; None keeps all.

    Raises:
        ValueError: for settings outside these ranges.
    """

    name: str
    classes: int
    mean = 0.5
    deviation = 0.5

    def __init__(
        self,
        batch_size: int,
        steps: int,
        share: float = 1.0,
        flip: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, steps)
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 or null, got {limit}")
        self.share, self.flip, self.limit = share, flip, limit

    def read(self, folder: DataFolder) -> dict[str, Pictures]:
        """The parts, whole."""
        raise NotImplementedError

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the pictures and takes the share of the training part."""
        super().prepare(streams, parents)
        folder = locate(self.name)
        self._fingerprint = folder.fingerprint
        self._parts = {
            part: Pictures(*(values[: self.limit] for values in pictures))
            for part, pictures in self.read(folder).items()
        }
        train = self._parts["train"]
        self._parts["train"] = train.rows(share_of_each_class(train.labels, self.share))
        count = len(self._parts["train"].labels)
        repeats = -(-self.batch_size // count)
        self._rows = torch.arange(count).repeat(repeats)
        self._order = EpochOrder(len(self._rows), self.batch_size, streams)

    def fingerprints(self) -> dict[str, str]:
        """Which pictures are in use."""
        return {self.name: self._fingerprint}

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, channels, side, side) and labels (B,) of a training step."""
        images, labels = self._parts["train"].rows(self._rows[self._order.rows(step)])
        if self.flip:
            generator = self.streams.generator("mirrored pictures", step)
            mirrored = torch.rand(len(labels), generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return self.inputs(images), labels

    def examples(self, part: str) -> tuple[Tensor, Tensor]:
        """All inputs and labels of a part.

        Raises:
            ValueError: for an unknown part.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        images, labels = self._parts[part]
        return self.inputs(images), labels

    def inputs(self, images: Tensor) -> Tensor:
        """Images uint8 as the float32 inputs of a network."""
        return (images.float() / 255 - self.mean) / self.deviation


class MnistData(PictureData):
    """MNIST: 55,000 pictures train, 5,000 validate, 10,000 test."""

    name = "mnist"
    classes = 10
    mean, deviation = 0.1307, 0.3081

    def read(self, folder: DataFolder) -> dict[str, Pictures]:
        """The parts, whole."""
        parts = read_mnist(folder)
        return {
            name: Pictures(part.images.unsqueeze(1), part.labels)
            for name, part in zip(PARTS, parts, strict=True)
        }


class FashionData(PictureData):
    """Fashion-MNIST, divided as MNIST is."""

    name = "fashion_mnist"
    classes = 10
    mean, deviation = 0.2860, 0.3530

    def read(self, folder: DataFolder) -> dict[str, Pictures]:
        """The parts, whole."""
        train, test = (
            Pictures(part.images[:, :1].contiguous(), part.labels) for part in fashion_mnist(folder)
        )
        cut = len(train.labels) - 5000
        return {
            "train": train.rows(torch.arange(cut)),
            "validation": train.rows(torch.arange(cut, cut + 5000)),
            "test": test,
        }


class CatsDogsData(PictureData):
    """4,000 photos of cats and dogs: 2,800 train, 400 validate, 800 test.

    Args:
        side: pixels; 128 or a divisor of it, for which squares of pixels are averaged.
        settings: as `PictureData`.
    """

    name = "cats_dogs"
    classes = 2

    def __init__(self, batch_size: int, steps: int, side: int = 32, **settings: object) -> None:
        super().__init__(batch_size, steps, **settings)
        self.side = side

    def read(self, folder: DataFolder) -> dict[str, Pictures]:
        """The parts, whole; classes are equally frequent in each."""

        def make() -> dict[str, np.ndarray]:
            every = [read_photos(folder.path / f"{part}.parquet") for part in ("train", "test")]
            images, labels = (np.concatenate(values) for values in zip(*every, strict=True))
            order = np.concatenate(class_by_class(labels))
            return {
                "images": smaller(images[order], self.side).transpose(0, 3, 1, 2),
                "labels": labels[order],
            }

        law = {"version": VERSION, "data": folder.fingerprint, "side": self.side}
        arrays = cached("cats-dogs", law, make).arrays
        images, labels = (torch.from_numpy(np.array(arrays[of])) for of in Pictures._fields)
        whole = Pictures(images, labels)
        return {
            "train": whole.rows(torch.arange(2800)),
            "validation": whole.rows(torch.arange(2800, 3200)),
            "test": whole.rows(torch.arange(3200, 4000)),
        }


def read_photos(path: object) -> tuple[np.ndarray, np.ndarray]:
    """Photos uint8 (n, 128, 128, 3) and labels int64 (n,) of a parquet file of JPEGs."""
    import pandas
    from PIL import Image

    table = pandas.read_parquet(path)
    photos = [
        np.asarray(Image.open(io.BytesIO(entry["bytes"])).convert("RGB"))
        for entry in table["image"]
    ]
    return np.stack(photos), table["label"].to_numpy(np.int64)


def class_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Row numbers in a random order in which classes take turns, a row of each at a time."""
    draw = np.random.default_rng(SPLIT_SEED)
    members = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return list(np.stack(members, 1))


def share_of_each_class(labels: Tensor, share: float) -> Tensor:
    """Sorted row numbers of a share of every class, one of each at least; smaller shares are parts
    of larger ones."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    rows = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        rows.append(members[order[: max(1, round(share * len(members)))]])
    return torch.cat(rows).sort().values
