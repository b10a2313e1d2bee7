"""Images made of noise that a classifier has a strong opinion about, and unlearning with them.

Error-maximising noise for a class to forget, and a little retained data: UNSIR (Tarun et al., TNNLS
2023, arXiv 2111.08947). Error-minimising noise in place of the retained data: zero-shot unlearning
(Chundawat et al., TIFS 2023, arXiv 2201.05629).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.backbones.training import Adam
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Seconds,
    Updates,
    check_at_least,
    device_of,
    frozen_copy,
    working_copy,
)
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch
from sextant.methods.unlearning.random_labels import label_loss
from sextant.ranges import positive

Aim = Literal["maximise", "minimise"]


@dataclass(frozen=True, kw_only=True)
class NoiseImages:
    """How images of noise are learned, one set a class.

    Args:
        images: of each class.
        steps: of Adam on the pixels; the authors count them as 5 epochs of 8.
        rate: of Adam.
        penalty: weight of the images' mean squared norm.

    Raises:
        ValueError: for a setting out of range.
    """

    images: int = 256
    steps: int = 40
    rate: float = 0.1
    penalty: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("steps", 0), ("penalty", 0)):
            check_at_least(name, getattr(self, name), least)
        positive(rate=self.rate)

    def learn(
        self,
        model: nn.Module,
        label: int,
        shape: tuple[int, ...],
        aim: Aim,
        generator: torch.Generator,
    ) -> Examples:
        """Images (images, *shape) that begin as standard normal noise, with the label they bear.

        "maximise" takes them where the loss -CE(model(x), label) + penalty mean |x|^2 is small,
        "minimise" the same with +CE. The model is a fixed function; steps forward and backward
        passes of all images.
        """
        sign = -1.0 if aim == "maximise" else 1.0
        device = device_of(model)
        noise = torch.randn(self.images, *shape, generator=generator).to(device).requires_grad_()
        labels = torch.full((self.images,), label, device=device)
        optimizer = Adam([noise], lr=self.rate)
        for _ in range(self.steps):
            error = sign * cross_entropy(model(noise), labels)
            loss = error + self.penalty * noise.square().flatten(1).sum(1).mean()
            (noise.grad,) = torch.autograd.grad(loss, noise)
            optimizer.step()
        return Examples(noise.detach(), labels)


@dataclass(frozen=True, kw_only=True)
class _ImpairRepair(Updates):
    """An epoch on forgotten noise among what is kept, then epochs on what is kept alone."""

    rate: float = 0.02
    epochs: int = 2
    batch_size: int = 256
    optimizer: Literal["sgd", "adam"] = "adam"
    batch_norm: BatchNormMode = "train"
    repair_rate: float = 0.01
    repeats: int = 20
    noise: NoiseImages = NoiseImages()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("repeats", self.repeats, 1)
        positive(repair_rate=self.repair_rate)

    def rate_at(self, epoch: int) -> float:
        """The rate of impairing in the first epoch, that of repairing afterwards."""
        return self.rate if epoch == 1 else self.repair_rate

    def _impair_and_repair(
        self,
        model: nn.Module,
        problem: Problem,
        streams: Streams,
        watch: Watch | None,
        kept: Examples,
        forgotten: Examples,
        seconds: Seconds,
    ) -> Unlearned:
        impairing = kept.joined(_repeated(forgotten, self.repeats))

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            examples = impairing if epoch == 1 else kept
            return examples.batches(self.batch_size, streams.generator("noise/order", epoch))

        found = self.run(working_copy(model), batches, label_loss, None, watch, seconds=seconds)
        found.report["forgotten_noise_images"] = len(forgotten)
        return found


@dataclass(frozen=True, kw_only=True)
class Unsir(_ImpairRepair):
    """UNSIR: error-maximising noise labelled as the forgotten class, then retained data alone.

    Noise is learned for every class to forget; all of its images are used, each with the label of
    its own class. The first epoch impairs, on noise among a subset of the retained data; the other
    one repairs, on the subset. Not one example of the forgotten class is seen.

    Args:
        rate: of Adam while impairing.
        repair_rate: of Adam while repairing.
        epochs: 1 of impairing, the others of repairing.
        repeats: how often each noise image stands in the impairing epoch.
        noise: how noise is learned.
        See `Updates` for the others; `stop_at` has nothing to look at and must be None.
    """

    needs: ClassVar[Needs] = Needs(forget=False, retain="subset")

    def __post_init__(self) -> None:
        super().__post_init__()
        _no_stop(self)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: where no class is forgotten whole.
        """
        kept, seconds = problem.retain.to(device_of(model)), Seconds()
        classes = _forgotten_classes(problem)
        with seconds.part("noise"):
            shape = tuple(kept.inputs.shape[1:])
            forgotten = _noise_of(
                self.noise, model, classes, shape, "maximise", streams, "unsir/noise"
            )
        return self._impair_and_repair(model, problem, streams, watch, kept, forgotten, seconds)


@dataclass(frozen=True, kw_only=True)
class ErrorMinimisingNoise(_ImpairRepair):
    """Zero-shot unlearning: as UNSIR, with error-minimising noise in place of the retained data.

    No example at all is seen. Noise for a class that is kept stands in both epochs, noise for a
    forgotten class in the first. No code of the authors is known; the settings are those of UNSIR.

    Args:
        shape: of an input, (channels, height, width).
        See `Unsir` for the others.
    """

    shape: tuple[int, ...]
    needs: ClassVar[Needs] = Needs(forget=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _no_stop(self)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must be positive sizes of an input, got {self.shape}")

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: where no class is forgotten whole.
        """
        classes, seconds, shape = _forgotten_classes(problem), Seconds(), tuple(self.shape)
        with seconds.part("noise"):
            forgotten = _noise_of(
                self.noise, model, classes, shape, "maximise", streams, "zero shot/forgotten"
            )
            kept = _noise_of(
                self.noise,
                model,
                problem.retained_classes,
                shape,
                "minimise",
                streams,
                "zero shot/kept",
            )
        kept = _repeated(kept, self.repeats)
        return self._impair_and_repair(model, problem, streams, watch, kept, forgotten, seconds)


def _noise_of(
    noise: NoiseImages,
    model: nn.Module,
    classes: tuple[int, ...],
    shape: tuple[int, ...],
    aim: Aim,
    streams: Streams,
    purpose: str,
) -> Examples:
    fixed = frozen_copy(model)
    parts = [
        noise.learn(fixed, label, shape, aim, streams.generator(purpose, label))
        for label in classes
    ]
    together = parts[0]
    for part in parts[1:]:
        together = together.joined(part)
    return together


def _repeated(examples: Examples, times: int) -> Examples:
    shape = [times] + [1] * (examples.inputs.ndim - 1)
    return replace(
        examples, inputs=examples.inputs.repeat(shape), labels=examples.labels.repeat(times)
    )


def _forgotten_classes(problem: Problem) -> tuple[int, ...]:
    if not problem.forgotten_classes:
        raise ValueError("forgotten_classes must name at least one class, got none")
    return problem.forgotten_classes


def _no_stop(updates: Any) -> None:
    if updates.stop_at is not None:
        raise ValueError(
            f"stop_at must be None, since no forget set is seen, got {updates.stop_at}"
        )
