"""PGU (Hoang et al., WACV 2024): unlearning gradients off the space of the data that stay.

The covariance of all training data is gathered when the model is trained; when some are to be
forgotten, theirs is subtracted, and what is left says which directions the retained data use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.backbones.training import stop_if_diverged
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.covariance import LayerCovariance, feature_covariances
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Seconds,
    Updates,
    check_at_least,
    device_of,
    set_training,
    shuffled,
    working_copy,
)
from sextant.methods.unlearning.problem import (
    Examples,
    Needs,
    Problem,
    Unlearned,
    Watch,
    forget_accuracy,
)
from sextant.methods.unlearning.projected import ProjectedStep
from sextant.methods.unlearning.projectors import Projector, Spectrum

LOOK = 256
"""Inputs that the covariance looks at together."""

SLACK = 1e-12
"""Share by which a cumulative sum may fall short and still count as reaching its aim."""


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientUnlearning(Updates):
    """Lowers the true class and raises the entropy of the forget set, off the retained features.

    Of every layer's retained inputs the fewest leading directions are fixed whose singular values
    sum to the share `held` (of the singular values, not of their squares). Gradients of
    `unlearning_loss` are projected off them; all parameters of one axis are frozen, and running
    statistics stay. The rate falls exponentially from `rate` to `last_rate`.

    The retained data are looked at for two things: for the covariance of all training data, which
    would be stored with a model whose training kept it, and for the accuracy that stops.

    Args:
        rate: of the first epoch.
        last_rate: of the last epoch, positive.
        epochs: at most so many over the forget set.
        batch_size: of the forget set.
        held: share of the sum of singular values, in [0, 1].
        offset: added to 1 - p under the logarithm, positive; 0.05 and `entropy` 0.2 are the
            authors' for an All-CNN on CIFAR-10.
        entropy: weight of the entropy, not negative.
        fall: retained accuracy may be so much, in [0, 1], below that of the given model; the epoch
            that fell further is the last one, and its weights are kept.
        See `Updates` for the others; the optimizer is SGD without weight decay, whose steps stay
            where projected gradients are.

    Raises:
        ValueError: for a setting out of range.
    """

    rate: float = 0.1
    last_rate: float = 0.01
    epochs: int = 100
    batch_size: int = 100
    momentum: float = 0.0
    batch_norm: BatchNormMode = "eval"
    held: float = 0.9
    offset: float = 0.05
    entropy: float = 0.2
    fall: float = 0.05
    needs: ClassVar[Needs] = Needs(retain="all")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("held", "fall"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("last_rate", "offset"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        check_at_least("entropy", self.entropy, 0)
        if self.decay != "constant" or self.drops:
            raise ValueError(
                "decay must be 'constant' and drops empty, as the rate falls to last_rate, "
                f"got {self.decay!r} and {self.drops}"
            )
        if self.optimizer != "sgd" or self.weight_decay:
            raise ValueError(
                "optimizer must be 'sgd' without weight_decay, as others leave the free space, "
                f"got {self.optimizer!r} with {self.weight_decay}"
            )

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.rate * (self.last_rate / self.rate) ** ((epoch - 1) / max(self.epochs - 1, 1))

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            FloatingPointError: when a loss is not finite.
        """
        device, student, seconds = device_of(model), working_copy(model), Seconds()
        forget, retain = problem.forget.to(device), problem.retain.to(device)
        with seconds.part("covariance"):
            matrices = retained_features(student, forget.joined(retain), forget)
            projectors = {
                name: Projector(leading_directions(matrix, self.held), "remove")
                for name, matrix in matrices.items()
            }
        batches = shuffled(forget, self.batch_size, streams, "pgu/order")
        optimizer = self.make_optimizer(student.parameters())
        before = forget_accuracy(student, retain)
        curve, steps, stopped_by = [], 0, "epochs"
        with ProjectedStep(student, projectors, optimizer, "gradient") as projected:
            for epoch in range(1, self.epochs + 1):
                with seconds.part("updates"):
                    for group in optimizer.param_groups:
                        group["lr"] = self.rate_at(epoch)
                    set_training(student, self.batch_norm)
                    total = 0.0
                    for inputs, labels in batches(epoch):
                        loss = unlearning_loss(student(inputs), labels, self.offset, self.entropy)
                        stop_if_diverged(loss.detach(), steps, steps + 1)
                        optimizer.zero_grad()
                        loss.backward()
                        projected.step()
                        total, steps = total + loss.item() * len(labels), steps + 1
                    student.eval()
                    entry = {"epoch": float(epoch), "loss": total / len(forget)}
                    entry["retained_accuracy"] = forget_accuracy(student, retain)
                    if self.stop_at is not None:
                        entry["forget_accuracy"] = forget_accuracy(student, forget)
                if watch is not None:
                    entry.update(watch(epoch, student))
                    student.eval()
                curve.append(entry)
                if before - entry["retained_accuracy"] > self.fall:
                    stopped_by = "retained accuracy"
                    break
                if self.stop_at is not None and entry["forget_accuracy"] <= self.stop_at:
                    stopped_by = "forget accuracy"
                    break
        optimizer.zero_grad()
        report = {
            "epochs": len(curve),
            "steps": steps,
            "stopped_by": stopped_by,
            "retained_accuracy_before": before,
            "retained_accuracy": curve[-1]["retained_accuracy"],
            "kept": {name: one.kept for name, one in projectors.items()},
            "dimensions": {name: one.dimension for name, one in projectors.items()},
            "frozen": projected.frozen,
        }
        return Unlearned(student.eval(), dict(seconds), report, curve)


def unlearning_loss(
    logits: Tensor, labels: Tensor, offset: float = 0.05, entropy: float = 0.2
) -> Tensor:
    """The mean of -log(1 - p_y + offset) - entropy * H(p) over rows of logits (n, K).

    p is the softmax of a row, y its label (n,), and H its entropy in nats.
    """
    shares = logits.log_softmax(1)
    own = shares.gather(1, labels[:, None]).exp()
    unsure = -(shares.exp() * shares).sum(1)
    return -(1 - own + offset).log().mean() - entropy * unsure.mean()


def retained_features(
    model: nn.Module, everything: Examples, forget: Examples
) -> dict[str, Tensor]:
    """Z^T Z / rows (d, d), float64, of each layer's inputs on all examples but those to forget.

    Covariance of everything less that of the forget set: equal to that of the rest up to rounding.
    Layers that `feature_covariances` follows, without the constant of biases.

    Args:
        model: looks at both sets, in evaluation mode.
        everything: all examples, on the model's device.
        forget: fewer of them.
    """
    whole, gone = _looked(model, everything), _looked(model, forget)
    widths = {name: model.get_submodule(name).weight.flatten(1).shape[1] for name in whole}
    left = {name: whole[name] - gone[name] for name in whole}
    return {name: one.matrix[: widths[name], : widths[name]] for name, one in left.items()}


def leading_directions(covariance: Tensor, held: float) -> Tensor:
    """The fewest leading eigenvectors (d, r) whose singular values sum to the share `held`.

    Singular values of the rows Z behind a covariance Z^T Z / n are, up to a factor, the roots of
    its eigenvalues. O(d^3).
    """
    spectrum = Spectrum.of(covariance)
    reached = spectrum.values.sqrt().cumsum(0)
    wanted = held * reached[-1]
    if wanted <= 0:
        return spectrum.vectors[:, :0]
    count = int((reached < wanted * (1 - SLACK)).sum()) + 1
    return spectrum.vectors[:, :count].clone()


def _looked(model: nn.Module, examples: Examples) -> Mapping[str, LayerCovariance]:
    with torch.no_grad():
        return feature_covariances(model, (inputs for inputs, _ in examples.batches(LOOK)))
