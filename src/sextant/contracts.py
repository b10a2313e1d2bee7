"""The few types that tasks, methods and runs share; the three wings meet nowhere else.

A task brings a data module and an exam. A method brings a student. A run lets the student learn
(or not, when it needs no training) and hands it to the exam, which asks the student questions
through one of the protocols below and returns an `Examination`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """One mark of an examination.

    Args:
        value: the mark, finite.
        n: how many examples it was computed on, at least 1.
        better: which direction is better.
        standard_error: of the value over its `n` examples, where it is known.
        timed: whether the mark measures time, so that equal runs need not agree on it.

    Raises:
        ValueError: for an `n` below 1, a negative standard error or an unknown direction.
        FloatingPointError: for a value that is not finite (a run that diverged).
    """

    value: float
    n: int
    better: Better
    standard_error: float | None = None
    timed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The mark as a ledger line holds it."""
        fields = {
            "value": self.value,
            "n": self.n,
            "better": self.better,
            "standard_error": self.standard_error,
        }
        return fields | ({"timed": True} if self.timed else {})

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise FloatingPointError(f"a score is {self.value}, so the run diverged")
        if self.n < 1:
            raise ValueError(f"a score needs at least one example, got n = {self.n}")
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better must be 'higher' or 'lower', got {self.better!r}")
        if self.standard_error is not None and self.standard_error < 0:
            raise ValueError(f"a standard error cannot be negative, got {self.standard_error}")


@dataclass
class Examination:
    """What an exam found: marks, the arrays figures are drawn from, and pictures for people.

    `arrays` are saved beside the run as `samples.npz`; `pictures` are uint8 (height, width, 3).
    """

    scores: dict[str, Score]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Streams:
    """Independent random streams named by what they are for.

    A stream is a pure function of (seed, purpose, index), so an interrupted run that asks again
    for step 700 gets the numbers an undisturbed run got, and two methods with one seed see the
    same data order.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, purpose: str, index: int = 0) -> torch.Generator:
        """A CPU generator for draw number `index` (a step or an epoch) of `purpose`."""
        key = hashlib.sha256(f"{self.seed}/{purpose}/{index}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)


class Parent(Protocol):
    """A finished run that another run starts from."""

    run_id: str
    spec: Mapping[str, Any]
    folder: Path

    def load(self) -> torch.nn.Module:
        """The parent's student as its exam saw it: trained weights, evaluation mode, CPU."""


class StepBatches(IterableDataset):
    """Batches drawn by step number: step k is the same batch however often a run was interrupted.

    Args:
        draw: the batch of a step, a pure function of the step number.
        first_step: where to begin (0, or the step a run resumes at).
        steps: the step to stop before.

    It has no length on purpose: Lightning would compare it with the steps counted before an
    interruption and stop a resumed run too early.
    """

    def __init__(self, draw: Callable[[int], Any], first_step: int, steps: int) -> None:
        self.draw, self.first_step, self.steps = draw, first_step, steps

    def __iter__(self) -> Iterator[Any]:
        return (self.draw(step) for step in range(self.first_step, self.steps))


class ExamData(Protocol):
    """What a run asks of a task's data module (a LightningDataModule with these two extras)."""

    first_step: int

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Called once, before anything is drawn."""

    def fingerprints(self) -> dict[str, str]:
        """Name and content fingerprint of every data set in use; generated data name their law."""


class Student(Protocol):
    """What a run asks of every method: a LightningModule is trained between `prepare` and the exam,
    anything else has learned, or unlearned, when `prepare` returns."""

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Called once, before training, with the task's data module."""


class Exam(Protocol):
    """How a task is scored; built from the task's config, versioned by `version` there."""

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Asks the student the task's questions; never shows it test data beforehand."""


@runtime_checkable
class Generator(Protocol):
    """A student that turns source samples into data samples."""

    def generate(self, source: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """Maps source (n, *shape) to samples (n, *shape) with `steps` network evaluations."""


@runtime_checkable
class Classifier(Protocol):
    """A student that names the class of an input."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to class scores (n, classes)."""

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to the penultimate features (n, width)."""


@runtime_checkable
class Autoencoder(Protocol):
    """A student that packs inputs into short codes and back."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to codes (n, code)."""

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, code) to inputs (n, *shape)."""


@dataclass(frozen=True, eq=False)
class TissueMesh:
    """A body of linear tetrahedra at rest.

    Args:
        positions: of the nodes (N, 3), float64, metres.
        tetrahedra: node numbers (T, 4), int64, of positive volume.
        surface: triangles (F, 3), int64, counter-clockwise seen from outside.
        fixed: nodes (N,) bool that never move.
    """

    positions: np.ndarray
    tetrahedra: np.ndarray
    surface: np.ndarray
    fixed: np.ndarray


@dataclass(frozen=True)
class Grasps:
    """What the tools do to a mesh, B times.

    Args:
        nodes: held nodes (B, n), int64; -1 fills up where fewer than n are held.
        displacement: of the held nodes (B, n, 3), metres; 0 where nothing is held.
    """

    nodes: Tensor
    displacement: Tensor

    @property
    def held(self) -> Tensor:
        """Which entries are real, (B, n) bool."""
        return self.nodes >= 0

    def __len__(self) -> int:
        return len(self.nodes)

    def rows(self, rows: Tensor | slice) -> Grasps:
        """Some of them."""
        return Grasps(self.nodes[rows], self.displacement[rows])


@dataclass(frozen=True)
class Material:
    """An isotropic elastic material.

    Args:
        young: Young's modulus, Pa.
        poisson: Poisson's ratio.
    """

    young: float
    poisson: float


@runtime_checkable
class Simulator(Protocol):
    """A student that says how tissue gives way."""

    def simulate(self, mesh: TissueMesh, grasps: Grasps, material: Material) -> Tensor:
        """The displacement (B, N, 3), metres, float32, of every node under each grasp."""
