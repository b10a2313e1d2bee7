"""CIFAR-10 for vision transformers."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.data import locate
from tasks.conversion.data import ConversionData, Examples
from tasks.shared.pictures import cifar10, of_each_class

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class CifarPictures(ConversionData):
    """CIFAR-10 in colour, normalised; training pictures are mirrored by chance and shifted.

    Args:
        side: pixels; 32, or a divisor of it, for which squares of pixels are averaged.
        train_each, test_each: pictures of a class; None takes all.
        shift: pixels, at most, that a training picture is moved each way; what it leaves is grey.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        side: int = 32,
        train_each: int | None = None,
        test_each: int | None = None,
        watched: int = 200,
        shift: int = 4,
    ) -> None:
        super().__init__(batch_size, steps, "accuracy", 10, watched)
        self.side, self.shift = side, shift
        self.each = (train_each, test_each)

    def read(self) -> dict[str, Examples]:
        """The data set "cifar10"."""
        folder = locate("cifar10")
        self._fingerprints["cifar10"] = folder.fingerprint
        parts = {}
        for part, pictures, each in zip(
            ("train", "test"), cifar10(folder, self.side), self.each, strict=True
        ):
            images, labels = pictures.rows(of_each_class(pictures.labels, 0, each))
            parts[part] = Examples({"pixels": normalised(images)}, labels)
        return parts

    def draw_batch(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """As the parent class, each picture mirrored with probability one half and shifted."""
        inputs, labels = super().draw_batch(step)
        generator = self.streams.generator("mirrored and shifted pictures", step)
        pixels = inputs["pixels"]
        mirrored = torch.rand(len(labels), generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        room = self.shift
        padded = torch.nn.functional.pad(pixels, (room,) * 4)
        across, down = torch.randint(2 * room + 1, (2, len(labels), 1), generator=generator)
        places = torch.arange(self.side)
        rows, columns = (down + places)[:, :, None], (across + places)[:, None, :]
        examples = torch.arange(len(labels))[:, None, None]
        moved = padded[examples, :, rows, columns].permute(0, 3, 1, 2)
        return {"pixels": moved.contiguous()}, labels


def normalised(images: Tensor) -> Tensor:
    """Images uint8 (n, 3, side, side) with the mean 0 and the deviation 1 of each colour."""
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
    return (images / 255.0 - mean) / deviation
