"""Model inversion: images that a trained classifier takes for its own training data.

The pixels are optimised, the weights stay. The loss is that of DeepInversion (Yin et al., CVPR
2020): cross-entropy, the distance of the batch's statistics from the running ones of every batch
normalisation, total variation and the norm of the pixels. The images stand in for the data that
CovarNav may not see (arXiv 2311.12999, abstract).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.backbones.training import Adam, stop_if_diverged
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import check_at_least, check_share
from sextant.methods.unlearning.inversion_terms import (
    BatchNormInputs,
    batch_norm_term,
    pixel_norm,
    total_variation,
)
from sextant.methods.unlearning.problem import Examples, PixelSpace
from sextant.methods.unlearning.progress import progress_bar
from sextant.methods.unlearning.proxy_quality import quality
from sextant.methods.unlearning.wrong_labels import frozen
from sextant.ranges import one_of, positive_and_finite

Start = Literal["uniform", "normal"]
"""Pixels uniform in [0, 1], or inputs of a standard normal law, clamped to what pixels can be."""
Schedule = Literal["constant", "drop", "cosine"]
"""The rate stays, is a tenth of it from half of the iterations on, or falls to 0 like a cosine."""
OnPoor = Literal["raise", "warn"]
"""What happens to images that the model itself does not recognise."""


class PoorInversion(RuntimeError):
    """The model does not recognise its own inverted images."""


@dataclass(frozen=True)
class Inverted:
    """Images drawn from a model.

    Args:
        examples: inputs (n, C, H, W) of the model's dtype, on the CPU, and the labels they were
            drawn for.
        report: plain numbers: "own_accuracy", "batch_norm_layers", "batch_norm_distance" (None
            without batch normalisation), "images", "iterations".
        losses: one (first, kept) pair of losses a batch.
    """

    examples: Examples
    report: dict[str, Any]
    losses: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Draws images, balanced over the given classes, from a classifier in evaluation mode.

    The loss of a batch is
    `cross_entropy` CE + `batch_norm` R_bn + `total_variation` R_tv + `l2` R_l2, with R_bn the sum
    over batch normalisations of ||mean - running mean|| + ||variance - running variance||, of the
    layer's inputs and with the variance divided by n. Adam moves the pixels, which are clamped to
    [0, 1] after every step; the images kept are those of the lowest loss. A model without batch
    normalisation (a transformer) simply has no such term, which the report says.

    Cost: images / batch_size times iterations forward and backward passes of a batch.

    Args:
        images: how many; a multiple of the number of classes is balanced exactly.
        batch_size: most images that are optimised together, whose statistics R_bn compares;
            batches are made equally large.
        iterations: steps of a batch.
        rate: of Adam, in units of the inputs.
        cross_entropy, batch_norm, total_variation, l2: weights of the terms, not negative.
        jitter: every step rolls the images by up to so many pixels both ways, 0 for none.
        start: "uniform" or "normal", see `Start`.
        schedule: "constant", "drop" or "cosine", see `Schedule`.
        least_accuracy: own accuracy that the images must reach, in [0, 1].
        on_poor: "raise" or "warn" where they do not.
        progress: shows a bar after two seconds; None shows it where a person watches.

    Raises:
        ValueError: for a setting out of range.
    """

    images: int = 256
    batch_size: int = 256
    iterations: int = 1000
    rate: float = 0.05
    cross_entropy: float = 1.0
    batch_norm: float = 1.0
    total_variation: float = 1e-3
    l2: float = 0.0
    jitter: int = 2
    start: Start = "uniform"
    schedule: Schedule = "drop"
    least_accuracy: float = 0.9
    on_poor: OnPoor = "raise"
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "iterations"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("cross_entropy", "batch_norm", "total_variation", "l2", "jitter"):
            check_at_least(name, getattr(self, name), 0)
        positive_and_finite(rate=self.rate)
        check_share("least_accuracy", self.least_accuracy)
        for name, known in (("start", Start), ("schedule", Schedule), ("on_poor", OnPoor)):
            one_of(known, **{name: getattr(self, name)})

    @classmethod
    def brainwash(cls, **settings: Any) -> Inversion:
        """The settings of BrainWash (Abbasi et al., CVPR 2024), from the authors of CovarNav.

        10,000 steps of Adam at 0.01, a tenth of it from the middle on; weights 1 : 0.1 : 1e-3 :
        0.1, relative to the cross-entropy (Adam does not see a common factor); no jitter. The
        variance here is divided by n, theirs by n - 1.
        """
        own: dict[str, Any] = {
            "batch_size": 128,
            "iterations": 10_000,
            "rate": 0.01,
            "batch_norm": 0.1,
            "total_variation": 1e-3,
            "l2": 0.1,
            "jitter": 0,
            "start": "uniform",
            "schedule": "drop",
        }
        return cls(**own | settings)

    @classmethod
    def deep_inversion(cls, **settings: Any) -> Inversion:
        """The settings of DeepInversion (Yin et al., CVPR 2020) for CIFAR-10.

        2,000 steps of Adam at 0.05, weight 10 for the statistics, jitter up to 2 pixels, a normal
        start. Its total variation is another one (norms of four directions), so that its weight
        does not carry over; here it stays at 1e-3.
        """
        own: dict[str, Any] = {
            "batch_size": 256,
            "iterations": 2000,
            "rate": 0.05,
            "batch_norm": 10.0,
            "jitter": 2,
            "start": "normal",
            "schedule": "constant",
        }
        return cls(**own | settings)

    @own_training()
    def __call__(
        self,
        model: nn.Module,
        classes: Sequence[int],
        shape: Sequence[int],
        space: PixelSpace | None,
        generator: torch.Generator,
    ) -> Inverted:
        """Images of the given classes.

        Args:
            model: inputs to logits (n, K); comes back as it was, hooks and modes included.
            classes: labels to draw images for, all different.
            shape: (C, H, W) of an input.
            space: how pixels became inputs.
            generator: a CPU generator, the only source of randomness.

        Raises:
            ValueError: for no or repeated classes, or a shape that is no image of that space.
            FloatingPointError: where the loss is not finite.
            PoorInversion: see `least_accuracy`.
        """
        shape = check_image(shape, space)
        labels = balanced_labels(classes, self.images)
        batches = math.ceil(self.images / self.batch_size)
        inputs, losses = [], []
        with (
            frozen(model),
            progress_bar(
                batches * self.iterations, "inverting the model", self.progress
            ) as advance,
        ):
            for targets in labels.tensor_split(batches):
                drawn, first, kept = self._batch(model, targets, shape, space, generator, advance)
                inputs.append(drawn)
                losses.append((first, kept))
        examples = Examples(torch.cat(inputs).cpu(), labels)
        report = {
            "images": self.images,
            "iterations": self.iterations,
            **quality(model, examples, self.batch_size),
        }
        self._judge(report["own_accuracy"])
        return Inverted(examples, report, losses)

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, shift: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The loss (0-d) of images (n, C, H, W) rolled by `shift` rows and columns.

        The model is taken as it stands, in evaluation mode where R_bn is to mean anything.
        """
        with BatchNormInputs(model if self.batch_norm else None) as seen:
            logits = model(images.roll(shift, (2, 3)) if any(shift) else images)
        total = self.cross_entropy * functional.cross_entropy(logits, labels)
        for weight, term in (
            (self.batch_norm, lambda: batch_norm_term(seen.taken())),
            (self.total_variation, lambda: total_variation(images)),
            (self.l2, lambda: pixel_norm(images)),
        ):
            if weight:
                total = total + weight * term()
        return total

    def noise(
        self,
        classes: Sequence[int],
        shape: Sequence[int],
        space: PixelSpace | None,
        generator: torch.Generator,
    ) -> Examples:
        """What images are drawn from before any step, with their labels; as `__call__`, float32."""
        labels = balanced_labels(classes, self.images)
        return Examples(
            self._start(len(labels), check_image(shape, space), space, generator), labels
        )

    def _start(
        self, count: int, shape: tuple[int, ...], space: PixelSpace, generator: torch.Generator
    ) -> Tensor:
        if self.start == "uniform":
            return space.to_inputs(torch.rand((count, *shape), generator=generator))
        return space.clamp(torch.randn((count, *shape), generator=generator))

    def _batch(
        self,
        model: nn.Module,
        labels: Tensor,
        shape: tuple[int, ...],
        space: PixelSpace,
        generator: torch.Generator,
        advance: Callable[[int], None],
    ) -> tuple[Tensor, float, float]:
        """Images of one batch, its first loss and the kept one."""
        weight = next(model.parameters())
        images = self._start(len(labels), shape, space, generator).to(weight).requires_grad_()
        labels = labels.to(weight.device)
        lowest, highest = space.lowest.to(weight), space.highest.to(weight)
        optimizer = Adam([images], lr=self.rate)
        best, kept = weight.new_tensor(math.inf), images.detach().clone()
        for iteration in range(self.iterations + 1):
            shift = (0, 0)
            if self.jitter:
                drawn = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator)
                shift = tuple(drawn.tolist())
            # The last pass only judges the images that the last step left.
            with torch.set_grad_enabled(iteration < self.iterations):
                loss = self.loss(model, images, labels, shift)
            stop_if_diverged(loss.detach(), iteration, self.iterations + 1)
            if iteration == 0:
                first = loss.detach()
            # Compared where it is computed: reading the number would make an accelerator wait.
            kept = torch.where(loss.detach() < best, images.detach(), kept)
            best = torch.minimum(best, loss.detach())
            if iteration == self.iterations:
                break
            (images.grad,) = torch.autograd.grad(loss, images)
            optimizer.param_groups[0]["lr"] = self.rate * self._share(iteration)
            optimizer.step()
            with torch.no_grad():
                images.copy_(torch.maximum(torch.minimum(images, highest), lowest))
            advance(1)
        return kept, float(first), float(best)

    def _share(self, iteration: int) -> float:
        """The share of the rate at an iteration."""
        if self.schedule == "drop":
            return 1.0 if 2 * iteration < self.iterations else 0.1
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * iteration / self.iterations))
        return 1.0

    def _judge(self, accuracy: float) -> None:
        if accuracy >= self.least_accuracy:
            return
        sentence = (
            f"the model recognises {accuracy:.1%} of its inverted images, "
            f"least_accuracy = {self.least_accuracy:.1%}: "
            "more iterations or a larger rate may help"
        )
        if self.on_poor == "raise":
            raise PoorInversion(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=4)


def balanced_labels(classes: Sequence[int], count: int) -> Tensor:
    """`count` labels (count,) int64 that go around the classes, so that any stretch is balanced.

    Raises:
        ValueError: for no classes, or repeated ones.
    """
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be at least one and all different, got {tuple(classes)}")
    return torch.as_tensor(list(classes))[torch.arange(count) % len(classes)]


def check_image(shape: Sequence[int], space: PixelSpace | None) -> tuple[int, ...]:
    """The shape (C, H, W), or a ValueError where it is no image of that space."""
    if space is None:
        raise ValueError("space must say how pixels became inputs, got None")
    if len(shape) != 3 or shape[0] != len(space.mean):
        raise ValueError(
            f"shape must be (channels, height, width) with the {len(space.mean)} channels of the "
            f"pixel space, got {tuple(shape)}"
        )
    return tuple(shape)
