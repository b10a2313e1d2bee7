"""UNSC (Chen et al., arXiv 2404.13588): second-best labels in the null space of real kept data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.covariance import feature_covariances
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Seconds,
    Updates,
    check_at_least,
    device_of,
    shuffled,
    working_copy,
)
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch
from sextant.methods.unlearning.projected import ProjectedStep
from sextant.methods.unlearning.projectors import ROUNDING, Projector, Spectrum
from sextant.methods.unlearning.random_labels import label_loss
from sextant.methods.unlearning.wrong_labels import second_best
from sextant.ranges import within


@dataclass(frozen=True, kw_only=True)
class NullSpaceCalibration(Updates):
    """Trains the forget set towards second-best labels where the retained classes have no features.

    A basis grows class by class over real retained examples, as in gradient projection memory (Saha
    et al., ICLR 2021): each class adds the leading directions of what the basis leaves of its
    features until the share `energy` of them is held. Gradients are projected off the basis; all
    parameters of one axis are frozen, and running statistics stay.

    Args:
        energy: share that the first class asks for, in [0, 1].
        rise: what every further class asks for in addition; the share is at most 1.
        momentum: of SGD; 0 is ours.
        See `Updates` for the others; the optimizer is SGD without weight decay, whose steps stay
            where projected gradients are.
    """

    rate: float = 0.04
    epochs: int = 25
    momentum: float = 0.0
    batch_norm: BatchNormMode = "eval"
    energy: float = 0.97
    rise: float = 0.003
    needs: ClassVar[Needs] = Needs(retain="subset")

    def __post_init__(self) -> None:
        super().__post_init__()
        within("[0, 1]", energy=self.energy)
        check_at_least("rise", self.rise, 0)
        if self.optimizer != "sgd" or self.weight_decay:
            raise ValueError(
                "optimizer must be 'sgd' without weight_decay, as others leave the null space, "
                f"got {self.optimizer!r} with {self.weight_decay}"
            )

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget, seconds = problem.forget.to(device_of(model)), Seconds()
        student = working_copy(model)
        retain = problem.retain.to(device_of(model))
        with seconds.part("covariance"):
            bases = class_bases(
                student, retain, problem.retained_classes, self.energy, self.rise, self.batch_size
            )
        with seconds.part("labels"):
            labels = second_best(student, forget.inputs, forget.labels)
        projectors = {name: Projector(basis, "remove") for name, basis in bases.items()}
        moving = {f"{name}.weight" for name in projectors}
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in moving)
        frozen = [name for name, _ in student.named_parameters() if name not in moving]
        projected: list[ProjectedStep] = []

        def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            if not projected:
                projected.append(ProjectedStep(network, projectors, optimizer, "gradient"))
            projected[0].step()

        batches = shuffled(forget.relabelled(labels), self.batch_size, streams, "unsc/order")
        found = self.run(student, batches, label_loss, forget, watch, step, seconds)
        found.model.requires_grad_(True)
        found.report["kept"] = {name: one.kept for name, one in projectors.items()}
        found.report["dimensions"] = {name: one.dimension for name, one in projectors.items()}
        found.report["frozen"] = frozen
        return found


def class_bases(
    model: nn.Module,
    examples: Examples,
    classes: tuple[int, ...],
    energy: float,
    rise: float,
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """Orthonormal columns (d, r), float64, that hold each class's features in each layer's input.

    Features of the layers that `feature_covariances` follows, without the constant of biases. Takes
    an eigendecomposition a class and layer, O(classes d^3).

    Raises:
        ValueError: for a class without an example.
    """
    bases: dict[str, Tensor] = {}
    for number, label in enumerate(classes):
        inputs = examples.inputs[examples.labels == label]
        if not len(inputs):
            raise ValueError(f"examples must hold some of every class, got none of {label}")
        share = min(1.0, energy + number * rise)
        for name, matrix in _feature_matrices(model, inputs, batch_size).items():
            bases[name] = grown(bases.get(name, matrix[:, :0]), matrix, share)
    return bases


def grown(basis: Tensor, covariance: Tensor, energy: float) -> Tensor:
    """The basis (d, r) with the fewest leading directions of what it leaves of a covariance (d, d)
    so that it holds the share `energy` of its trace; the basis itself where it does already."""
    inside = covariance @ basis
    left = covariance - inside @ basis.T - basis @ inside.T
    left += basis @ (basis.T @ inside) @ basis.T
    spectrum = Spectrum.of((left + left.T) / 2)
    missing = energy * covariance.trace() - (covariance.trace() - left.trace())
    if missing <= 0:
        return basis
    added = int((spectrum.values.cumsum(0) < missing * (1 - ROUNDING)).sum()) + 1
    added = min(added, len(covariance) - basis.shape[1])
    return torch.linalg.qr(torch.cat((basis, spectrum.vectors[:, :added]), 1)).Q


def _feature_matrices(model: nn.Module, inputs: Tensor, batch_size: int) -> Mapping[str, Tensor]:
    found = feature_covariances(model, inputs.split(batch_size))
    widths = {name: model.get_submodule(name).weight.flatten(1).shape[1] for name in found}
    return {name: one.matrix[: widths[name], : widths[name]] for name, one in found.items()}
