"""What an unlearning method may see, and what it gives back.

A method declares its `Needs`; a `Problem` hands over these and nothing else, so that a method that
calls itself free of retained data cannot touch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.numerics import evaluating, trainable
from sextant.ranges import at_least, one_of

Retain = Literal["none", "subset", "all"]
Watch = Callable[[int, nn.Module], Mapping[str, float]]


class NotDeclared(PermissionError):
    """A method reached for something that its needs do not declare."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled inputs.

    Args:
        inputs: (n, *shape), floating-point, as the network takes them.
        labels: (n,) int64.

    Raises:
        TypeError: for inputs that are not floating-point, or labels that are not int64.
        ValueError: for labels that are not one a row of the inputs.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not self.inputs.is_floating_point():
            raise TypeError(f"inputs must be floating-point, got {self.inputs.dtype}")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {self.labels.dtype}")
        if self.labels.shape != self.inputs.shape[:1] or not self.inputs.ndim:
            raise ValueError(
                "labels must be one for each row of the inputs, "
                f"got {tuple(self.labels.shape)} for inputs {tuple(self.inputs.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once, in batches (inputs, labels); the last one may be smaller.

        Args:
            size: examples in a batch, at least 1.
            generator: a CPU generator that shuffles; None keeps the order.

        Raises:
            ValueError: for a size below 1.
        """
        at_least(1, size=size)
        if generator is None:
            yield from zip(self.inputs.split(size), self.labels.split(size), strict=True)
            return
        order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        for rows in order.split(size):
            yield self.inputs[rows], self.labels[rows]

    def relabelled(self, labels: Tensor) -> Examples:
        """The same inputs with other labels (n,)."""
        return Examples(self.inputs, labels)

    def joined(self, other: Examples) -> Examples:
        """These examples, then the others."""
        both = (self.inputs, other.inputs), (self.labels, other.labels)
        return Examples(*(torch.cat(parts) for parts in both))

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on a device."""
        return Examples(self.inputs.to(device), self.labels.to(device))


Source = Examples | Callable[[], Examples]


@dataclass(frozen=True)
class Needs:
    """What a method asks to see besides the trained model.

    Args:
        forget: the examples to forget.
        retain: none, a subset or all of the examples to keep.
        training_log: what was recorded while the model was trained.
        fresh: freshly initialised models of the same kind.

    Raises:
        ValueError: for an unknown `retain`.
    """

    forget: bool = True
    retain: Retain = "none"
    training_log: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        one_of(Retain, retain=self.retain)


@dataclass(frozen=True)
class PixelSpace:
    """How pixels in [0, 1] became inputs: input = (pixel - mean) / deviation, channel by channel.

    Args:
        mean: one number a channel.
        deviation: one positive number a channel.

    Raises:
        ValueError: for no channel, unequal lengths, or a deviation that is not positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = len(self.mean), len(self.deviation)
        if not counts[0] or counts[0] != counts[1]:
            raise ValueError(f"mean and deviation must be one number a channel, got {counts}")
        if not all(value > 0 for value in self.deviation):
            raise ValueError(f"deviation must be positive, got {self.deviation}")

    @property
    def lowest(self) -> Tensor:
        """Inputs of black, (1, C, 1, 1) float32."""
        return self.to_inputs(torch.zeros(1, len(self.mean), 1, 1))

    @property
    def highest(self) -> Tensor:
        """Inputs of white, (1, C, 1, 1) float32."""
        return self.to_inputs(torch.ones(1, len(self.mean), 1, 1))

    def clamp(self, inputs: Tensor) -> Tensor:
        """Inputs (n, C, h, w) brought back to what pixels in [0, 1] can be."""
        return torch.maximum(torch.minimum(inputs, self.highest.to(inputs)), self.lowest.to(inputs))

    def to_pixels(self, inputs: Tensor) -> Tensor:
        """Inputs (n, C, h, w) to pixels."""
        return inputs * self._column(self.deviation, inputs) + self._column(self.mean, inputs)

    def to_inputs(self, pixels: Tensor) -> Tensor:
        """Pixels (n, C, h, w) to inputs."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.deviation, pixels)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


class Problem:
    """What one method may see of one task of unlearning; made by `Problem.of`.

    Attributes:
        needs: what was declared.
        classes: K, the model's number of logits.
        forgotten_classes: the classes to forget whole; () where a random subset is forgotten.
        space: how pixels became inputs, None where that is not known.
    """

    def __init__(
        self,
        needs: Needs,
        given: Mapping[str, Any],
        classes: int,
        forgotten_classes: tuple[int, ...],
        space: PixelSpace | None,
    ) -> None:
        self.needs, self.classes, self.space = needs, classes, space
        self.forgotten_classes = forgotten_classes
        self._given = dict(given)

    @classmethod
    def of(
        cls,
        needs: Needs,
        *,
        classes: int,
        forget: Source | None = None,
        retain: Source | None = None,
        subset: Source | None = None,
        training_log: Any = None,
        fresh: Callable[[], nn.Module] | None = None,
        forgotten_classes: tuple[int, ...] = (),
        space: PixelSpace | None = None,
    ) -> Problem:
        """Keeps what is declared and drops the rest; what is not declared is never called.

        Args:
            needs: of the method.
            classes: K, the model's number of logits.
            forget: the examples to forget, or a callable that loads them.
            retain: all examples to keep, likewise.
            subset: some of the examples to keep, likewise.
            training_log: what was recorded while the model was trained.
            fresh: makes a freshly initialised model of the same kind.
            forgotten_classes: the classes to forget whole, () for a random subset.
            space: how pixels became inputs.

        Raises:
            ValueError: where something that is declared is missing, or for a forgotten class that
                is none of the K.
        """
        at_least(2, classes=classes)
        forgotten = tuple(int(label) for label in forgotten_classes)
        if any(not 0 <= label < classes for label in forgotten) or len(set(forgotten)) == classes:
            raise ValueError(
                f"forgotten_classes must be some, not all, of 0 to {classes - 1}, got {forgotten}"
            )
        kept = ("subset", subset) if needs.retain == "subset" else ("retain", retain)
        declared = {
            "forget": (needs.forget, "forget", forget),
            "retain": (needs.retain != "none", *kept),
            "training_log": (needs.training_log, "training_log", training_log),
            "fresh": (needs.fresh, "fresh", fresh),
        }
        for name, (wanted, argument, value) in declared.items():
            if wanted and value is None:
                raise ValueError(
                    f"{argument} must be given to a method whose needs declare "
                    f"{name} = {getattr(needs, name)!r}, got None"
                )
        given = {name: value for name, (wanted, _, value) in declared.items() if wanted}
        return cls(needs, given, classes, forgotten, space)

    @property
    def forget(self) -> Examples:
        """The examples to forget."""
        return self._examples("forget")

    @property
    def retain(self) -> Examples:
        """The examples to keep: all, or the subset, as declared."""
        return self._examples("retain")

    @property
    def training_log(self) -> Any:
        """What was recorded while the model was trained."""
        return self._declared("training_log")

    @property
    def retained_classes(self) -> tuple[int, ...]:
        """The classes that are not forgotten whole, in order."""
        return tuple(label for label in range(self.classes) if label not in self.forgotten_classes)

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """A freshly initialised model, a pure function of the generator's seed."""
        make = self._declared("fresh")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return make()

    def _examples(self, name: str) -> Examples:
        found = self._declared(name)
        if not isinstance(found, Examples):
            found = found()
        if found.inputs.is_inference() or found.labels.is_inference():
            found = Examples(trainable(found.inputs), trainable(found.labels))
        self._given[name] = found
        return found

    def _declared(self, name: str) -> Any:
        if name not in self._given:
            declared = getattr(self.needs, name)
            raise NotDeclared(
                f"{name} is not handed over, since the method's needs declare {name} = {declared!r}"
            )
        return self._given[name]


@dataclass
class Unlearned:
    """What a method gives back.

    Args:
        model: the classifier that forgot, in evaluation mode.
        seconds: processor time of the parts, such as "inversion", "covariance" and "updates".
        report: plain numbers and strings: epochs, frozen parameters, what stopped it.
        curve: one entry an epoch.
    """

    model: nn.Module
    seconds: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


class Method(Protocol):
    """An unlearning method, constructed from keyword arguments."""

    needs: Needs

    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """Unlearns on a copy; the given model keeps its weights, buffers and mode.

        Args:
            model: the trained classifier.
            problem: what the method may see, made with its own `needs`.
            streams: the only source of randomness.
            watch: called as watch(epoch, model) after each epoch, from 1; its numbers join the
                curve, and the method never looks at them.
        """


@torch.no_grad()
def forget_accuracy(model: nn.Module, examples: Examples, batch_size: int = 256) -> float:
    """The share of examples whose true label is the argmax over all logits, in [0, 1].

    Computed in evaluation mode, on the model's device; the model's modes are as before.

    Raises:
        ValueError: for no examples.
    """
    if not len(examples):
        raise ValueError("examples must be at least one, got none")
    device, right = next(model.parameters(), examples.inputs).device, 0
    with evaluating(model):
        for inputs, labels in examples.batches(batch_size):
            right += int((model(inputs.to(device)).argmax(1).cpu() == labels.cpu()).sum())
    return right / len(examples)
