"""The training loop that methods which update weights share, and small helpers around it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sextant.contracts import Streams
from sextant.methods.backbones.training import Adam, stop_if_diverged
from sextant.methods.unlearning.problem import (
    Examples,
    Problem,
    Unlearned,
    Watch,
    forget_accuracy,
)
from sextant.ranges import one_of, positive_and_finite, within

Optimizer = Literal["sgd", "adam"]
BatchNormMode = Literal["train", "eval"]
Decay = Literal["constant", "cosine"]
Step = Callable[[nn.Module, torch.optim.Optimizer], None]


@dataclass(frozen=True, kw_only=True)
class Updates:
    """Epochs of optimizer steps; methods inherit its settings and `run`.

    Args:
        rate: learning rate of the first epoch.
        epochs: at most this many.
        batch_size: examples in a batch.
        optimizer: "sgd" or "adam".
        momentum: of SGD; Adam has its usual 0.9 and 0.999.
        weight_decay: added to the gradient, as both optimizers do.
        decay: "constant", or "cosine" from `rate` in the first epoch towards 0 after the last one.
        drops: epochs, counted from 1, after which the rate falls to a tenth.
        batch_norm: "train" normalises by the batch and moves the running statistics, "eval"
            keeps to the running statistics; affine weights train in both.
        stop_at: ends after the first epoch with an accuracy on the forget set of at most this, in
            [0, 1]; None runs all epochs.

    Raises:
        ValueError: for a setting out of range.
    """

    rate: float
    epochs: int
    batch_size: int = 64
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay: Decay = "constant"
    drops: tuple[int, ...] = ()
    batch_norm: BatchNormMode = "train"
    stop_at: float | None = None

    def __post_init__(self) -> None:
        positive_and_finite(rate=self.rate)
        for name in ("epochs", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        for name, known in (
            ("optimizer", Optimizer),
            ("batch_norm", BatchNormMode),
            ("decay", Decay),
        ):
            one_of(known, **{name: getattr(self, name)})
        within("[0, 1)", momentum=self.momentum)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_share("stop_at", self.stop_at)

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        rate = self.rate * 0.1 ** sum(epoch > last for last in self.drops)
        if self.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
        return rate

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these settings at the rate of the first epoch."""
        settings = {"lr": self.rate_at(1), "weight_decay": self.weight_decay}
        if self.optimizer == "adam":
            return Adam(list(parameters), **settings)
        return torch.optim.SGD(list(parameters), momentum=self.momentum, **settings)

    def run(
        self,
        model: nn.Module,
        batches: Callable[[int], Iterable[Any]],
        loss: Callable[[nn.Module, Any], Tensor],
        forget: Examples | None = None,
        watch: Watch | None = None,
        step: Step | None = None,
        seconds: Seconds | None = None,
        besides: Iterable[nn.Parameter] = (),
    ) -> Unlearned:
        """Trains a model in place; every epoch goes once through `batches(epoch)`.

        Args:
            model: what to train, all of its parameters that require gradients.
            batches: the batches of an epoch, counted from 1, on the model's device.
            loss: the mean loss of the model on a batch, to be minimised.
            forget: where `stop_at` looks; may be None without it.
            watch: called after each epoch, outside the time that is counted.
            step: makes the optimizer's step from the gradients; None calls `optimizer.step()`.
            seconds: where the time joins, as "updates"; None begins a new count.
            besides: parameters outside of the model that learn with it.

        Returns:
            The same model in evaluation mode, with `epochs`, `steps` and `stopped_by` ("epochs" or
            "forget accuracy") reported, and the mean loss of each epoch in the curve.

        Raises:
            FloatingPointError: when a loss is not finite.
        """
        seconds = Seconds() if seconds is None else seconds
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer([*learning, *besides])
        curve, steps, stopped_by = [], 0, "epochs"
        for epoch in range(1, self.epochs + 1):
            entry = {"epoch": float(epoch)}
            with seconds.part("updates"):
                for group in optimizer.param_groups:
                    group["lr"] = self.rate_at(epoch)
                set_training(model, self.batch_norm)
                total, count = 0.0, 0
                for batch in batches(epoch):
                    value = loss(model, batch)
                    # The same number twice: on an accelerator, too, every loss is looked at.
                    stop_if_diverged(value, steps, steps + 1)
                    optimizer.zero_grad()
                    value.backward()
                    if step is None:
                        optimizer.step()
                    else:
                        step(model, optimizer)
                    total, count, steps = total + value.item(), count + 1, steps + 1
                entry["loss"] = total / max(count, 1)
                model.eval()
                if self.stop_at is not None:
                    entry["forget_accuracy"] = forget_accuracy(model, forget)
            if watch is not None:
                entry.update(watch(epoch, model))
                model.eval()
            curve.append(entry)
            if self.stop_at is not None and entry["forget_accuracy"] <= self.stop_at:
                stopped_by = "forget accuracy"
                break
        report = {"epochs": len(curve), "steps": steps, "stopped_by": stopped_by}
        return Unlearned(model, dict(seconds), report, curve)


class Seconds(dict[str, float]):
    """Processor seconds of named parts, summed over all times a part is entered."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the processor time of what happens inside, all threads together."""
        begin = time.process_time()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + time.process_time() - begin


def working_copy(model: nn.Module) -> nn.Module:
    """A copy of a model that may be changed: every floating-point parameter learns."""
    return copy.deepcopy(model).requires_grad_(True)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that does not learn."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def set_training(model: nn.Module, batch_norm: BatchNormMode) -> None:
    """Training mode; with "eval" batch normalisation keeps to its running statistics."""
    model.train()
    if batch_norm == "eval":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device


def shuffled(
    examples: Examples, size: int, streams: Streams, purpose: str
) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """The batches of an epoch: each example once, ordered by (seed, purpose, epoch)."""
    return lambda epoch: examples.batches(size, streams.generator(purpose, epoch))


def endless(
    examples: Examples, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: every pass sees each example once, in a new order."""
    while True:
        yield from examples.batches(size, generator)


def stop_examples(updates: Updates, problem: Problem, model: nn.Module) -> Examples | None:
    """The forget set where `stop_at` looks at it, on the model's device; None without it."""
    return None if updates.stop_at is None else problem.forget.to(device_of(model))


def head_name(model: nn.Module, classes: int) -> str:
    """The name of the last linear layer with one output a class, in the order of modules.

    Raises:
        ValueError: for a model without one.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not names:
        raise ValueError(f"model must have a linear layer with {classes} outputs, found none")
    return names[-1]


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises a ValueError for a value below `least`, or one that is not finite."""
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least} and finite, got {value}")


def check_share(name: str, value: float | None) -> None:
    """Raises a ValueError for a value outside [0, 1]; None passes."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
