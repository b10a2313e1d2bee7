"""Fine-tuning of a softmax model, and what follows its conversion: recovery in few steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.attention.base import Attention
from sextant.methods.backbones.training import PROGRESS_EVERY, check_schedule, stop_if_diverged
from sextant.methods.conversion.networks import Inputs, answers, converted_network, loss_of
from sextant.methods.conversion.substitute import ConvertedAttention
from sextant.methods.conversion.teaching import lesson, map_parameters, start_from_softmax

Mode = Literal["task_only", "distill_then_task"]
Start = Literal["drawn", "softmax"]
LARGEST_NORM = 1.0
"""To which the gradient is scaled down."""


def linear_rate(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at `step`: up to 1 over `warmup` steps, then down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup))


class FineTuningModule(pl.LightningModule):
    """A student that learns a task: AdamW without decay, linear warm-up and fall.

    Dropout comes from the stream "noise" at the step's number. Where the data module names a
    `start`, the network reads its weights from there.

    Args:
        network: inputs to scores (B, outputs); see `networks`.
        learning_rate: the largest.
        steps: optimizer steps.
        warmup: steps until the largest learning rate.

    Raises:
        ValueError: for a setting out of range.
        FloatingPointError: in training, when the loss is not finite.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, steps: int, warmup: int = 0
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        if not 0 <= warmup <= steps:
            raise ValueError(f"warmup must lie in 0..{steps}, got {warmup}")
        self.network, self.learning_rate = network, learning_rate
        self.steps, self.warmup = steps, warmup
        self.streams = Streams(0)
        self.automatic_optimization = False

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the random streams, and the weights the data module names."""
        self.streams = streams
        if data.start is not None and hasattr(self.network, "read"):
            self.network.read(data.start)

    def training_step(self, batch: tuple[Inputs, Tensor], batch_index: int) -> None:
        """One optimizer step on one batch."""
        step = self.global_step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.streams.generator("noise", step).initial_seed())
            loss = self.loss(batch, step)
        stop_if_diverged(loss, step, self.steps)
        optimizer = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step, group["base"])
        optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_NORM)
        optimizer.step()
        if step % PROGRESS_EVERY == 0:
            self.log("loss", loss.detach())

    def loss(self, batch: tuple[Inputs, Tensor], step: int) -> Tensor:
        """The loss of a batch at a step."""
        inputs, labels = batch
        return loss_of(self.network(inputs), labels)

    def rate(self, step: int, base: float) -> float:
        """The learning rate of a group of parameters at a step."""
        return base * linear_rate(step, self.steps, self.warmup)

    def groups(self) -> list[dict[str, Any]]:
        """Parameters and their largest learning rates."""
        return [{"params": list(self.network.parameters()), "base": self.learning_rate}]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets its learning rates, a closed form of the step."""
        return torch.optim.AdamW(self.groups(), self.learning_rate, weight_decay=0.0)

    def scores(self, inputs: Inputs) -> Tensor:
        """Inputs (n, ...) to scores (n, outputs), on the CPU."""
        return answers(self.network, inputs)


class Untouched(nn.Module):
    """The fine-tuned model as it is: what all conversions are held against.

    Args:
        network: of the parent's sizes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the parent's weights."""
        self.network.load_state_dict(parents["finetuned"].load().network.state_dict())

    def scores(self, inputs: Inputs) -> Tensor:
        """Inputs (n, ...) to scores (n, outputs)."""
        return answers(self.network, inputs)


class RecoveryModule(FineTuningModule):
    """A fine-tuned model, converted, then trained for a few steps.

    With "distill_then_task" the first steps teach the maps alone the rows of softmax; all others,
    and all steps of "task_only", train everything on the task. The data module's `watch` looks at
    the model at every mark, for the curve alone: nothing is selected by it.

    Args:
        network: of the parent's sizes.
        attention: the new one; every layer gets a copy, drawn anew.
        learning_rate: of the parent's parameters.
        map_rate: of the maps, in both stages.
        steps: of both stages together.
        distill_steps: of the first stage of "distill_then_task".
        marks: steps at which the curve is taken, from 0, rising, to `steps`.
        mode: "task_only" or "distill_then_task".
        start: "drawn", or "softmax" for maps fitted to softmax on normal tokens first.
        softmax_class_token, convolution: for picture models, see `convert`.
        warmup: steps of the rise, in each stage.

    Raises:
        ValueError: for a setting out of range, or a first stage for an attention without a map.
    """

    curve: Tensor

    def __init__(
        self,
        network: nn.Module,
        attention: Attention,
        learning_rate: float,
        map_rate: float,
        steps: int,
        distill_steps: int,
        marks: Sequence[int],
        mode: Mode = "task_only",
        start: Start = "drawn",
        softmax_class_token: bool = False,
        convolution: int = 0,
        warmup: int = 0,
    ) -> None:
        super().__init__(network, learning_rate, steps, warmup)
        marks = list(marks)
        if marks != sorted(set(marks)) or not marks or (marks[0], marks[-1]) != (0, steps):
            raise ValueError(f"marks must rise from 0 to {steps}, got {marks}")
        if mode not in get_args(Mode) or start not in get_args(Start):
            raise ValueError(
                "mode must be 'task_only' or 'distill_then_task', and start 'drawn' or 'softmax', "
                f"got {mode!r} and {start!r}"
            )
        self.network = converted_network(network, attention, softmax_class_token, convolution)
        self.distill_steps = distill_steps if mode == "distill_then_task" else 0
        if not 0 <= self.distill_steps < steps:
            raise ValueError(f"distill_steps must lie in 0..{steps - 1}, got {distill_steps}")
        if self.distill_steps and not map_parameters(self.network):
            raise ValueError("distill_then_task needs an attention with a map to teach")
        self.map_rate, self.marks, self.start = map_rate, marks, start
        self.register_buffer("curve", torch.zeros(len(marks)))
        self._data: Any = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the parent's weights; the maps stay as they were drawn, or are fitted."""
        self.streams, self._data = streams, data
        weights = parents["finetuned"].load().network.state_dict()
        _, unknown = self.network.load_state_dict(weights, strict=False)
        if unknown:
            raise ValueError(f"network must be of the parent's kind, which also has {unknown[0]}")
        if self.start == "softmax":
            seed = streams.generator("fit to softmax").initial_seed()
            start_from_softmax(self.network, seed=seed % 2**31)

    def training_step(self, batch: tuple[Inputs, Tensor], batch_index: int) -> None:
        """As the parent class, with a look at the model at every mark."""
        step = self.global_step
        if step == 0:
            self._mark(0)
        super().training_step(batch, batch_index)
        if step + 1 in self.marks:
            self._mark(step + 1)

    def loss(self, batch: tuple[Inputs, Tensor], step: int) -> Tensor:
        """The row cross-entropy in the first stage, then the task's loss."""
        if step >= self.distill_steps:
            return super().loss(batch, step)
        with lesson(self.network) as taken:
            self.network(batch[0])
        return taken.loss()

    def rate(self, step: int, base: float) -> float:
        """Each stage rises and falls by itself."""
        if step < self.distill_steps:
            return base * linear_rate(step, self.distill_steps, 0)
        begin = self.distill_steps
        return base * linear_rate(step - begin, self.steps - begin, self.warmup)

    def groups(self) -> list[dict[str, Any]]:
        """The maps, where they learn anything, and all else."""
        maps = map_parameters(self.network)
        known = {id(part) for part in maps}
        rest = [part for part in self.network.parameters() if id(part) not in known]
        groups = [{"params": rest, "base": self.learning_rate}]
        return groups + ([{"params": maps, "base": self.map_rate}] if maps else [])

    def budget_curve(self) -> tuple[list[int], list[float]]:
        """Steps, and the task's score on the watched part at each."""
        return self.marks, self.curve.tolist()

    @torch.no_grad()
    def rows(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Rows of softmax and of the maps, on the same queries and keys: (layers, H, N, M) each,
        for one example."""
        kept = _Rows()
        parts = [part for part in self.network.modules() if isinstance(part, ConvertedAttention)]
        for part in parts:
            part.lesson = kept
        answers(self.network, inputs)
        for part in parts:
            part.lesson = None
        teacher, student = zip(*kept.pairs, strict=True)
        return torch.cat(teacher).cpu(), torch.cat(student).cpu()

    def _mark(self, step: int) -> None:
        score = self._data.watch(self.scores)
        self.curve[self.marks.index(step)] = score
        self.log("score", score)


class _Rows:
    """A lesson that keeps the rows and lets the converted model go on as it is."""

    propagate_teacher = False

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def take(self, teacher: Tensor, student: Tensor, key_mask: Tensor | None) -> None:
        self.pairs.append((teacher, student))
