"""CovarNav: forgets by steps in directions that images drawn from the model hardly use.

The idea is that of arXiv 2311.12999: the forget set is trained towards its most probable wrong
classes, by a gradient-projection method that protects inverted images in place of the data that may
not be seen. Only the abstract of the paper could be read; the projector is that of Adam-NSCL (Wang
et al., CVPR 2021) or of GPM (Saha et al., ICLR 2021), and every number is ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.backbones.training import Adam, stop_if_diverged
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.covariance import refused_layers, stream_covariances
from sextant.methods.unlearning.epochs import (
    Optimizer,
    Seconds,
    check_at_least,
    check_share,
    device_of,
    shuffled,
    working_copy,
)
from sextant.methods.unlearning.inversion import Inversion
from sextant.methods.unlearning.problem import (
    Examples,
    Needs,
    Problem,
    Unlearned,
    Watch,
    forget_accuracy,
)
from sextant.methods.unlearning.projected import Place, ProjectedStep
from sextant.methods.unlearning.projectors import Projector, Rule, Spectrum, weight_matrix
from sextant.methods.unlearning.wrong_labels import LabelRule, wrong_labels
from sextant.ranges import one_of, positive_and_finite, within

Objective = Literal["wrong_labels", "ascent"]
"""Training towards wrong labels, or away from the true ones without a bound."""
Proxy = Literal["inverted", "noise", "given", "none"]
"""What is protected: inverted images, what inversion starts from, retained data, or nothing."""

SETTINGS: Mapping[str, Mapping[str, float]] = {
    "nscl": {"factor": 300.0},
    "gpm": {"energy": 0.5},
    "soft": {"strength": 0.1},
}
"""Settings of the rules where none are given."""

LOOK = 256
"""Images that the covariance looks at together."""

STOP_AT = 0.01
"""Forget accuracy at which a whole class counts as forgotten."""


@dataclass
class Navigated(Unlearned):
    """What CovarNav gives back: also the images it protected, for pictures and measurements.

    Args:
        proxy: the protected images; None where nothing was protected. Labels of noise are those it
            would have been inverted for.
    """

    proxy: Examples | None = None


@dataclass(frozen=True, kw_only=True)
class CovarNav:
    """Unlearning by model inversion and covariance navigation; see the module.

    The retained classes are protected where classes are forgotten whole, all classes where a random
    subset is. The network stays in evaluation mode, so that running statistics and dropout do not
    act; weights of plain convolutions and linear layers move, with the bias of the latter, and all
    other parameters are frozen. There is no weight decay, which no projector would hold back.

    Cost: the inversion, an eigendecomposition O(d^3) a layer of d inputs, and one product with a
    thin basis a layer and step.

    Args:
        inversion: draws the images, or for the proxy "noise" says how many and from what law.
        proxy: "inverted"; and to compare with: "noise", "given" (a subset of the retained data,
            which the method then asks for) and "none" (no projection, the same weights move).
        rule: of the projector: "nscl", "gpm" or "soft".
        setting: of the rule, see `Spectrum.nscl`, `Spectrum.gpm` and `Spectrum.soft`; None for
            `SETTINGS`.
        place: "update" projects what the optimizer did; "gradient" what it is given, which does not
            protect exactly under Adam.
        objective: "wrong_labels"; or "ascent" of the loss of the true labels, to compare with.
        label_rule: see `sextant.methods.unlearning.wrong_labels`; not looked at in an ascent.
        epochs: at most so many over the forget set.
        batch_size: examples in a step.
        rate: of the optimizer.
        optimizer: "adam" or "sgd".
        momentum: of SGD.
        stop_at: forget accuracy, in [0, 1], at which it ends after an epoch, or before the first
            one. None for 0.01 where classes are forgotten whole; a random subset needs a number,
            such as the model's accuracy on data that it has not seen.
        layers: names of the layers that may move, None for all that can be followed.

    Raises:
        ValueError: for a setting out of range.
    """

    inversion: Inversion = field(default_factory=Inversion)
    proxy: Proxy = "inverted"
    rule: Rule = "nscl"
    setting: Mapping[str, float] | None = None
    place: Place = "update"
    objective: Objective = "wrong_labels"
    label_rule: LabelRule = "second_best"
    epochs: int = 25
    batch_size: int = 64
    rate: float = 1e-3
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    stop_at: float | None = None
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        positive_and_finite(rate=self.rate)
        within("[0, 1)", momentum=self.momentum)
        check_share("stop_at", self.stop_at)
        for name, known in (
            ("proxy", Proxy),
            ("rule", Rule),
            ("place", Place),
            ("objective", Objective),
            ("label_rule", LabelRule),
            ("optimizer", Optimizer),
        ):
            one_of(known, **{name: getattr(self, name)})

    @property
    def needs(self) -> Needs:
        """The forget set; a subset of the retained data for the proxy "given" alone."""
        return Needs(retain="subset" if self.proxy == "given" else "none")

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Navigated:
        """See `problem.Method`.

        Raises:
            ValueError: for a random subset without `stop_at`, or a problem without a pixel space
                where images are drawn or moved in it.
            PoorInversion: as the inversion says.
            FloatingPointError: when a loss is not finite.
        """
        stop_at = self._stop_at(problem)
        forget, seconds = problem.forget.to(device_of(model)), Seconds()
        student = working_copy(model)
        student.eval()
        with seconds.part("inversion"):
            proxy, inverted = self.draw_proxy(student, problem, streams)
        with seconds.part("covariance"):
            projectors = self.make_projectors(student, proxy)
        sign, taught = -1.0, forget
        if self.objective == "wrong_labels":
            with seconds.part("labels"):
                labels = wrong_labels(
                    self.label_rule,
                    student,
                    forget.inputs,
                    forget.labels,
                    problem.space,
                    streams.generator("covarnav/labels"),
                )
            sign, taught = 1.0, forget.relabelled(labels)
        batches = shuffled(taught, self.batch_size, streams, "covarnav/order")
        optimizer = self._make_optimizer(student)
        curve, steps, stopped_by = [], 0, "epochs"
        with ProjectedStep(student, projectors, optimizer, self.place) as projected:
            accuracy = forget_accuracy(student, forget)
            for epoch in range(1, self.epochs + 1):
                if accuracy <= stop_at:
                    break
                with seconds.part("updates"):
                    total = 0.0
                    for inputs, targets in batches(epoch):
                        loss = sign * cross_entropy(student(inputs), targets)
                        stop_if_diverged(loss.detach(), steps, steps + 1)
                        optimizer.zero_grad()
                        loss.backward()
                        projected.step()
                        total, steps = total + loss.item() * len(targets), steps + 1
                    accuracy = forget_accuracy(student, forget)
                entry = {"epoch": float(epoch), "loss": total / len(forget)}
                entry["forget_accuracy"] = accuracy
                if watch is not None:
                    entry.update(watch(epoch, student))
                    student.eval()
                curve.append(entry)
        if accuracy <= stop_at:
            stopped_by = "forget accuracy"
        report = {
            "epochs": len(curve),
            "steps": steps,
            "stopped_by": stopped_by,
            "forget_accuracy": accuracy,
            "proxy": self.proxy,
            "proxy_images": 0 if proxy is None else len(proxy),
            "inversion": inverted,
            "kept": {name: one.kept for name, one in projectors.items()},
            "dimensions": {name: one.dimension for name, one in projectors.items()},
            "frozen": projected.frozen,
            "refused": refused_layers(student),
        }
        return Navigated(student, dict(seconds), report, curve, proxy)

    def draw_proxy(
        self, model: nn.Module, problem: Problem, streams: Streams
    ) -> tuple[Examples | None, dict[str, Any]]:
        """The images to protect (None for none) and what the inversion says of them, if it ran."""
        if self.proxy == "none":
            return None, {}
        if self.proxy == "given":
            return problem.retain, {}
        classes, shape = problem.retained_classes, tuple(problem.forget.inputs.shape[1:])
        generator = streams.generator("covarnav/inversion")
        if self.proxy == "inverted":
            inverted = self.inversion(model, classes, shape, problem.space, generator)
            return inverted.examples, inverted.report
        return self.inversion.noise(classes, shape, problem.space, generator), {}

    def make_projectors(self, model: nn.Module, proxy: Examples | None) -> dict[str, Projector]:
        """A projector for each layer that may move; one that changes nothing without a proxy."""
        if proxy is None:
            return {name: _everything(layer) for name, layer in self._followed(model).items()}
        setting = SETTINGS[self.rule] if self.setting is None else dict(self.setting)
        weight = next(model.parameters())
        batches = (inputs.to(weight) for inputs, _ in proxy.batches(LOOK))
        layers = None if self.layers is None else list(self.layers)
        found = {
            name: Spectrum.of(covariance.matrix).projector(self.rule, **setting).to(weight.detach())
            for name, covariance in stream_covariances(model, batches, layers)
        }
        free = [name for name, one in found.items() if one.kept >= one.dimension]
        if free:
            warnings.warn(
                f"{len(free)} of {len(found)} layers are free in all directions, so that nothing "
                f"they do on the images is protected: {', '.join(free[:6])}; rule {self.rule!r} "
                f"with {setting} is too lenient for them",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def _followed(self, model: nn.Module) -> dict[str, nn.Module]:
        refused = refused_layers(model)
        found = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in refused
        }
        if self.layers is None:
            return found
        for name in self.layers:
            if name not in found:
                raise ValueError(f"layers must be followed layers of the model, {name!r} is not")
        return {name: found[name] for name in self.layers}

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return Adam(model.parameters(), lr=self.rate)
        return torch.optim.SGD(model.parameters(), lr=self.rate, momentum=self.momentum)

    def _stop_at(self, problem: Problem) -> float:
        if self.stop_at is not None:
            return self.stop_at
        if not problem.forgotten_classes:
            raise ValueError(
                "stop_at must be given where a random subset is forgotten, such as the model's "
                "accuracy on data that it has not seen, got None"
            )
        return STOP_AT


def _everything(layer: nn.Module) -> Projector:
    """The projector that leaves every update of a layer as it is."""
    matrix = weight_matrix(layer)
    return Projector(matrix.new_zeros(matrix.shape[1], 0), "remove")
