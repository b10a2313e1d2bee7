"""How much a model forgot and kept: pure functions of class scores, accuracies and curves.

Accuracies are shares in [0, 1]. What comes near the model that was retrained without the forgotten
examples is good; neither 0 nor 1 is the aim in itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sextant.ranges import at_least, within

Bound = Literal["exact", "at least", "at most", "undefined"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of some examples, and what was right.

    Args:
        logits: (n, K) class scores, K >= 2, n >= 1.
        labels: (n,) int64, the true classes.

    Raises:
        TypeError: for logits that are not floating-point, or labels that are not int64.
        ValueError: for other shapes, no example, or a label that is none of the K classes.
        FloatingPointError: for logits that are not finite.
    """

    logits: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_logits("logits", self.logits)
        n, classes = self.logits.shape
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {self.labels.dtype}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must be ({n},), got {tuple(self.labels.shape)}")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            raise ValueError(
                f"labels must be 0 to {classes - 1}, "
                f"got {int(self.labels.min())} to {int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Accuracies:
    """Three accuracies of one model, as shares in [0, 1].

    Args:
        forget: on the training examples that are to be forgotten.
        retain: on the training examples that are kept.
        test: on the test examples.

    Raises:
        ValueError: for a share outside [0, 1].
    """

    forget: float
    retain: float
    test: float

    def __post_init__(self) -> None:
        within("[0, 1]", forget=self.forget, retain=self.retain, test=self.test)

    @property
    def unlearning(self) -> float:
        """UA = 1 - accuracy on the forgotten examples; its reference is the retrained model's."""
        return 1 - self.forget


def accuracy(answers: Answers) -> float:
    """The share of examples whose true class has the largest of all K logits.

    The forgotten class stays among the K. Of equal logits the lowest class is the answer.
    """
    return float((answers.logits.argmax(1) == answers.labels).double().mean())


def gap(value: float, retrained: float) -> float:
    """How far a mark lies above (positive) or below (negative) the retrained model's."""
    return value - retrained


def average_gap(
    unlearned: Accuracies, retrained: Accuracies, membership: float, retrained_membership: float
) -> float:
    """The mean distance to the retrained model in UA, RA, TA and MIA (arXiv 2310.12508).

    Args:
        unlearned: accuracies of the model that forgot.
        retrained: accuracies of the model retrained without the forgotten examples.
        membership: efficacy of the attack on the model that forgot, such as
            `attacks.svm_efficacy`, in [0, 1].
        retrained_membership: the same attack's on the retrained model.

    Returns:
        A number in [0, 1]; 0 is best.

    Raises:
        ValueError: for an efficacy outside [0, 1].
    """
    within("[0, 1]", membership=membership)
    within("[0, 1]", retrained_membership=retrained_membership)
    gaps = (
        gap(unlearned.unlearning, retrained.unlearning),
        gap(unlearned.retain, retrained.retain),
        gap(unlearned.test, retrained.test),
        gap(membership, retrained_membership),
    )
    return sum(abs(value) for value in gaps) / len(gaps)


def tug_of_war(unlearned: Accuracies, retrained: Accuracies) -> float:
    """ToW: the product of 1 - |gap| in forget, retain and test accuracy (arXiv 2406.01257).

    A number in [0, 1]; 1 where all three accuracies are the retrained model's.
    """
    return math.prod(
        1 - abs(gap(getattr(unlearned, name), getattr(retrained, name)))
        for name in ("forget", "retain", "test")
    )


def divergences(logits: Tensor, other: Tensor, base: float = 2.0) -> Tensor:
    """The Jensen-Shannon divergence of two models' class probabilities, example by example.

    Computed in float64 from log-probabilities, so a probability that underflows does no harm.

    Args:
        logits: (n, K) class scores of one model.
        other: (n, K) of the other.
        base: of the logarithm; with 2 a divergence lies in [0, 1], with e in [0, ln 2].

    Returns:
        (n,) float64.

    Raises:
        ValueError: for unequal shapes or a base of at most 1.
        FloatingPointError: for logits that are not finite.
    """
    check_logits("logits", logits)
    check_logits("other", other)
    if logits.shape != other.shape:
        raise ValueError(
            f"other must have the logits' shape {tuple(logits.shape)}, got {tuple(other.shape)}"
        )
    if not (base > 1 and math.isfinite(base)):
        raise ValueError(f"base must be a finite number above 1, got {base}")
    first, second = log_probabilities(logits), log_probabilities(other)
    middle = torch.logaddexp(first, second) - math.log(2)
    nats = (first.exp() * (first - middle) + second.exp() * (second - middle)).sum(1) / 2
    # Rounding may leave the ends of the range by one unit in the last place.
    return nats.clamp(0, math.log(2)) / math.log(base)


def zero_retrain_forgetting(logits: Tensor, fresh_logits: Tensor, base: float = 2.0) -> float:
    """ZRF: 1 - the mean Jensen-Shannon divergence to a freshly initialised model.

    The sum over classes is averaged over examples only. Source: arXiv 2205.08096, which states no
    base; 2 makes the score a share.

    Args:
        logits: (n, K) of the model that forgot, on the forgotten examples.
        fresh_logits: (n, K) of a model with random weights, on the same examples.
        base: of the logarithm.

    Returns:
        A number in [1 - log_base 2, 1], so [0, 1] for base 2; 1 where both models say the same.

    Raises:
        ValueError, FloatingPointError: as `divergences`.
    """
    return 1 - float(divergences(logits, fresh_logits, base).mean())


@dataclass(frozen=True)
class Relearning:
    """How fast a model learns again what it was to forget.

    Args:
        steps: optimizer steps until the aim was reached, or taken in vain.
        reached: whether it was reached.

    Raises:
        ValueError: for a negative number of steps.
    """

    steps: int
    reached: bool = True

    def __post_init__(self) -> None:
        at_least(0, steps=self.steps)


@dataclass(frozen=True)
class AnamnesisIndex:
    """Steps to relearn of a model that forgot, divided by the retrained model's.

    Args:
        value: the quotient, None where it is undefined.
        bound: "exact"; "at least", where the model that forgot did not relearn in the steps it was
            given; "at most", where the retrained one did not; "undefined", where neither did or
            where the retrained model needed no step.
    """

    value: float | None
    bound: Bound


def relearning(
    curve: Sequence[tuple[int, float]], original: float, share: float = 0.95
) -> Relearning:
    """The first step at which a model is as good again on what it was to forget.

    Args:
        curve: (optimizer steps so far, forget accuracy), by rising steps, step 0 first.
        original: forget accuracy of the model that had learned it, in (0, 1].
        share: of the original's accuracy that counts as relearned, in (0, 1].

    Returns:
        That step; where it never comes, the last step, not reached.

    Raises:
        ValueError: for an empty curve, steps that do not rise from 0, or a share out of range.
    """
    steps = [int(step) for step, _ in curve]
    if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"curve must hold rising steps from 0, got steps {steps}")
    for name, value in (("original", original), ("share", share)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
    for step, value in curve:
        within("[0, 1]", **{"curve's accuracy": value})
        if value >= share * original:
            return Relearning(int(step))
    return Relearning(steps[-1], reached=False)


def anamnesis_index(unlearned: Relearning, retrained: Relearning) -> AnamnesisIndex:
    """AIN: relearning steps of the model that forgot / of the retrained one (arXiv 2201.05629).

    1 is ideal; far below 1, the model that forgot remembers.
    """
    if not retrained.steps or not (unlearned.reached or retrained.reached):
        return AnamnesisIndex(None, "undefined")
    bound: Bound = "exact"
    if not unlearned.reached:
        bound = "at least"
    elif not retrained.reached:
        bound = "at most"
    return AnamnesisIndex(unlearned.steps / retrained.steps, bound)


def forgetting_curve(entries: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """The entries of a curve as columns, for figures.

    Args:
        entries: one mapping an epoch, such as {"epoch": 1, "forget": 0.6, "retain": 0.9}; an entry
            need not have every name.

    Returns:
        float64 (number of entries,) for every name in order of appearance; NaN where it is absent.
    """
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    return {
        name: np.array([entry.get(name, math.nan) for entry in entries], dtype=np.float64)
        for name in names
    }


def retained_at(forget: Sequence[float], retain: Sequence[float], level: float) -> float | None:
    """Retained accuracy at the first epoch whose forget accuracy is at most `level`.

    Args:
        forget: forget accuracy of every epoch.
        retain: retained accuracy of the same epochs.
        level: the forget accuracy that counts as forgotten, a share.

    Returns:
        None where no epoch gets there.

    Raises:
        ValueError: for unequal lengths.
    """
    _check_lengths(forget, retain)
    return next(
        (float(kept) for left, kept in zip(forget, retain, strict=True) if left <= level), None
    )


def frontier(forget: Sequence[float], retain: Sequence[float]) -> list[int]:
    """Which points no other point beats: forgets at least as well, retains at least as well.

    Args:
        forget: forget accuracy of every setting; lower is better.
        retain: retained accuracy of the same settings; higher is better.

    Returns:
        Places in the sequences by rising forget accuracy; of equal points the first.

    Raises:
        ValueError: for unequal lengths.
    """
    _check_lengths(forget, retain)
    best, kept = -math.inf, []
    for place in sorted(range(len(forget)), key=lambda place: (forget[place], -retain[place])):
        if retain[place] > best:
            best = retain[place]
            kept.append(place)
    return kept


def log_probabilities(logits: Tensor) -> Tensor:
    """Class scores (n, K) to log-probabilities (n, K), float64 on the CPU."""
    return logits.detach().cpu().double().log_softmax(1)


def check_logits(name: str, logits: Tensor) -> None:
    """Raises unless logits are floating-point (n, K), n >= 1, K >= 2, and finite."""
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {logits.dtype}")
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"{name} must be (n, K), n >= 1, K >= 2, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise FloatingPointError(f"{name} are not finite, so the model diverged")


def _check_lengths(forget: Sequence[float], retain: Sequence[float]) -> None:
    if len(forget) != len(retain):
        raise ValueError(
            f"forget and retain must be equally long, got {len(forget)} and {len(retain)}"
        )
