"""How fast a model learns again what it was to forget, and what that says beside a retrained one.

The anamnesis index of Chundawat et al. (TIFS 2023, arXiv 2201.05629): a model that relearns much
faster than one that never knew still remembers.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.ranges import at_least, positive_and_finite
from tasks.unlearning import measures
from tasks.unlearning.measures import Relearning

LOOK = 500
"""Examples answered at a time."""


def steps_to_relearn(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    target_accuracy: float,
    rate: float = 1e-3,
    batch_size: int = 64,
    most: int = 200,
    look_every: int = 5,
    *,
    generator: torch.Generator,
) -> int:
    """Steps of Adam on the forgotten examples until a copy of the model is as good on them again.

    The copy minimises cross-entropy in evaluation mode, so that batch normalisation keeps to its
    statistics and nothing is dropped out; the model itself is not changed. Every pass over the
    examples is shuffled. Cost: as many forward and backward passes of a batch as steps, and a
    forward pass of all examples at every look.

    Args:
        model: inputs to class scores (n, K); in evaluation mode or not.
        inputs: (n, *shape), the forgotten examples.
        labels: (n,) int64, their true classes.
        target_accuracy: to be reached on these examples, in (0, 1]; the authors take 0.95 of what
            the original model has.
        rate: of Adam.
        batch_size: examples in a step.
        most: steps after which it is given up, at least 1.
        look_every: steps between two looks at the accuracy; there is one before the first step,
            and one after the last.
        generator: a CPU generator of the order.

    Returns:
        Steps before the first look at which the target was reached: 0 for a model that knows,
        `most` also where it never was.

    Raises:
        ValueError: for a setting out of range, no examples, or labels that are not one each.
        FloatingPointError: when the loss is not finite.
    """
    _check(inputs, labels, target_accuracy, rate)
    at_least(1, batch_size=batch_size, most=most, look_every=look_every)
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    device = next(copied.parameters()).device
    inputs, labels = inputs.to(device), labels.to(device)
    if _accuracy(copied, inputs, labels) >= target_accuracy:
        return 0
    optimizer = torch.optim.Adam(copied.parameters(), lr=rate)
    waiting: list[Tensor] = []
    for step in range(1, most + 1):
        if not waiting:
            order = torch.randperm(len(labels), generator=generator).to(device)
            waiting = list(order.split(batch_size))
        rows = waiting.pop(0)
        loss = cross_entropy(copied(inputs[rows]), labels[rows])
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss of relearning is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        looks = step % look_every == 0 or step == most
        if looks and _accuracy(copied, inputs, labels) >= target_accuracy:
            return step
    return most


def anamnesis_index(unlearned_steps: int, retrained_steps: int) -> float | None:
    """AIN: steps to relearn of the model that forgot / those of the retrained one.

    1 is ideal; far below 1, the model that forgot remembers; above 1 it is worse at learning the
    forgotten than a model that never knew. Steps that were given up count as they stand, see
    `measures.anamnesis_index` for bounds.

    Args:
        unlearned_steps: of the model that forgot; 0, where it never forgot, gives 0.
        retrained_steps: of the model that was trained without the forgotten examples; 0, where it
            is good at them unseen, gives None: nothing can be told from relearning.

    Raises:
        ValueError: for a negative number of steps.
    """
    return measures.anamnesis_index(Relearning(unlearned_steps), Relearning(retrained_steps)).value


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    right = sum(
        int((model(rows).argmax(1) == own).sum())
        for rows, own in zip(inputs.split(LOOK), labels.split(LOOK), strict=True)
    )
    return right / len(labels)


def _check(inputs: Tensor, labels: Tensor, target_accuracy: float, rate: float) -> None:
    if not len(inputs) or labels.shape != inputs.shape[:1]:
        raise ValueError(
            "labels must be one for each of at least one input, "
            f"got {tuple(labels.shape)} for inputs {tuple(inputs.shape)}"
        )
    if not 0 < target_accuracy <= 1:
        raise ValueError(f"target_accuracy must be above 0 and at most 1, got {target_accuracy}")
    positive_and_finite(rate=rate)
