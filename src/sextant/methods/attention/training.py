"""Training of a sequence classifier, and the two published schedules of the Long Range Arena."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.contracts import Parent, Streams
from sextant.methods.backbones.training import (
    PROGRESS_EVERY,
    Adam,
    check_schedule,
    stop_if_diverged,
)
from sextant.methods.numerics import evaluating
from sextant.methods.transport.sliced.training import seconds_now
from sextant.ranges import at_least, within

Schedule = Literal["group", "skyformer"]

LARGEST_NORM = 5.0
"""To which "group" scales the gradient down."""
LARGEST_ENTRY = 1.0
"""At which "skyformer" cuts every entry of the gradient."""
SAME_SETTINGS = ("vocabulary", "length", "classes", "two_documents")
"""What network and data module must agree on."""
LOOKED_AT = 4
"""Examples whose features are looked at for trouble at every validation."""


class SequenceClassificationModule(pl.LightningModule):
    """A student that learns the classes of token sequences and keeps its best weights.

    A batch is (tokens, mask, labels): int64 (B, N), bool (B, N), int64 (B,); tokens and mask are
    (B, 2, N) for pairs of documents. After every `validate_every` optimizer steps, and after the
    last, the whole validation part is classified. The weights of the best accuracy, the first of
    equals, among the validations after a share `first_selection` of the steps are those that
    `logits` asks; the test part is never looked at.

    Schedules, both without weight decay:

    - "group": Adam (0.9, 0.98, 1e-8), `group_rate`, gradients scaled to a norm of 5 at most;
    - "skyformer": Adam (., 0.999, 1e-6), `one_cycle`, entries of the gradient cut at 1.

    Dropout and an attention's random draws come from the stream "noise" at the step's number, and
    the best weights are part of the state, so that an interrupted run goes on as if nothing had
    happened. Validation also logs, where an attention offers `diagnostics`, the mean
    `dead_channel_fraction` and the least `smallest_denominator` of its layers.

    Args:
        network: called as network(tokens, mask), gives class scores; see `SequenceClassifier`.
        learning_rate: the largest.
        steps: optimizer steps of the whole schedule.
        warmup: steps until the largest learning rate, at most `steps`.
        validate_every: optimizer steps between validations.
        schedule: "group" or "skyformer".
        first_selection: share of the steps before which nothing is selected, in [0, 1).
        autocast: bfloat16 for matrix products on accelerators; on a CPU it changes nothing. The
            core of attention, the head and the loss are in float32 all the same.
        evaluation_batch: examples classified at a time in validation; None takes as many as
            training does.

    Raises:
        ValueError: for a setting outside these ranges.
        FloatingPointError: in training, when the loss is not finite.
    """

    best_accuracy: Tensor
    best_step: Tensor
    timed_seconds: Tensor
    timed_steps: Tensor

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        steps: int,
        warmup: int,
        validate_every: int,
        schedule: Schedule = "group",
        first_selection: float = 0.2,
        autocast: bool = True,
        evaluation_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        if not 0 <= warmup <= steps:
            raise ValueError(f"warmup must lie in 0..{steps}, got {warmup}")
        at_least(1, validate_every=validate_every)
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be 'group' or 'skyformer', got {schedule!r}")
        within("[0, 1)", first_selection=first_selection)
        if evaluation_batch is not None:
            at_least(1, evaluation_batch=evaluation_batch)
        self.network = network
        self.best_network = copy.deepcopy(network).requires_grad_(False).eval()
        self.learning_rate, self.steps, self.warmup = learning_rate, steps, warmup
        self.validate_every, self.schedule = validate_every, schedule
        self.first_selection, self.autocast = first_selection, autocast
        self.evaluation_batch = evaluation_batch
        self.register_buffer("best_accuracy", torch.full((), -1.0, dtype=torch.float64))
        self.register_buffer("best_step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("timed_seconds", torch.zeros((), dtype=torch.float64))
        self.register_buffer("timed_steps", torch.zeros((), dtype=torch.int64))
        self.weights = list(self.network.parameters())
        self.streams = Streams(0)
        self._data: Any = None
        self._trained_on: torch.device | None = None
        self.automatic_optimization = False

    @property
    def parameter_count(self) -> int:
        """Numbers that are learnt."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def seconds_a_step(self) -> float | None:
        """Mean seconds of an optimizer step, without the making of its batch; None if none was
        timed. On a CPU processor time of every step but the first, on a GPU the clock's of every
        fiftieth, since timing makes the host wait."""
        count = int(self.timed_steps)
        return float(self.timed_seconds) / count if count else None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams and the data module, whose validation part selects.

        Raises:
            ValueError: where the network was made for other data.
        """
        for name in SAME_SETTINGS:
            own, wanted = getattr(self.network, name), getattr(data, name)
            if own != wanted:
                raise ValueError(f"network must have {name} {wanted} like the data, got {own}")
        self.streams, self._data = streams, data

    def on_train_start(self) -> None:
        """Remembers the device: Lightning moves the module to the CPU when it has trained it."""
        self._trained_on = self.device
        # Lightning remarks that it is this module, not the data module, that looks at the batches.
        warnings.filterwarnings("ignore", message=".*overridden `on_before_batch_transfer`.*")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Drops a mask without padding, which faster attention kernels do without."""
        tokens, mask, labels = batch
        return tokens, padding_only(mask), labels

    def loss(self, tokens: Tensor, mask: Tensor | None, labels: Tensor, step: int) -> Tensor:
        """Mean cross-entropy of a batch at a step; a pure function of weights, batch and step."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.streams.generator("noise", step).initial_seed())
            return functional.cross_entropy(self._scores(self.network, tokens, mask), labels)

    def training_step(self, batch: Any, batch_index: int) -> None:
        """One optimizer step on one batch, and a validation where one is due."""
        step = self.global_step
        timed = step > 0 and (self.device.type == "cpu" or step % PROGRESS_EVERY == 1)
        started = seconds_now(self.device) if timed else 0.0
        optimizer = self.optimizers()
        self.set_rate(optimizer, step)
        loss = self.loss(*batch, step)
        stop_if_diverged(loss, step, self.steps)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.limit_gradient()
        optimizer.step()
        if timed:
            self.timed_seconds += seconds_now(self.device) - started
            self.timed_steps += 1
        if step % PROGRESS_EVERY == 0:
            self.log("cross_entropy", loss.detach())
        if (step + 1) % self.validate_every == 0 or step + 1 == self.steps:
            for name, value in self.validate(step + 1).items():
                self.log(name, value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; `training_step` sets its learning rate, a closed form of the step."""
        if self.schedule == "group":
            return Adam(self.weights, self.learning_rate, (0.9, 0.98), 1e-8, fused=True)
        return Adam(self.weights, self.learning_rate, (0.9, 0.999), 1e-6, fused=True)

    def set_rate(self, optimizer: Any, step: int) -> None:
        """Gives the optimizer the learning rate of a step, and its first beta where that moves."""
        for group in optimizer.param_groups:
            if self.schedule == "group":
                factor = group_rate(step, self.steps, self.warmup)
            else:
                factor, first_beta = one_cycle(step, self.steps, self.warmup)
                group["betas"] = (first_beta, group["betas"][1])
            group["lr"] = self.learning_rate * factor

    def limit_gradient(self) -> None:
        """Scales or cuts the gradient, by schedule."""
        if self.schedule == "group":
            nn.utils.clip_grad_norm_(self.weights, LARGEST_NORM, foreach=True)
        else:
            nn.utils.clip_grad_value_(self.weights, LARGEST_ENTRY, foreach=True)

    def validate(self, step: int) -> dict[str, float]:
        """Classifies the validation part after optimizer step number `step`, the first being 1, and
        keeps the weights if they are the best so far; what is to be logged."""
        accuracy = self.validation_accuracy()
        late = step > self.first_selection * self.steps
        if late and accuracy > self.best_accuracy.item():
            self.best_network.load_state_dict(self.network.state_dict())
            self.best_accuracy.fill_(accuracy)
            self.best_step.fill_(step)
        return {"validation_accuracy": accuracy, **self.diagnostics()}

    @torch.no_grad()
    def validation_accuracy(self) -> float:
        """The share of the validation part that `network` classifies rightly now."""
        correct = total = 0
        with evaluating(self.network):
            for tokens, mask, labels in self._data.evaluation("validation", self.evaluation_batch):
                found = self._answers(self.network, tokens, mask, self.device).argmax(1)
                correct, total = correct + int((found == labels).sum()), total + len(labels)
        return correct / total

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """What the attentions of `network` say of their features of a few validation examples."""
        offering = [
            module
            for module in self.network.modules()
            if callable(getattr(module, "diagnostics", None))
        ]
        if not offering:
            return {}
        found: list[dict[str, float]] = []

        def look(module: Any, inputs: tuple[Any, ...]) -> None:
            queries, keys, _, key_mask = inputs
            found.append(module.diagnostics(queries, keys, key_mask))

        hooks = [module.register_forward_pre_hook(look) for module in offering]
        tokens, mask, _ = next(iter(self._data.evaluation("validation", LOOKED_AT)))
        with evaluating(self.network):
            self._answers(self.network, tokens, mask, self.device)
        for hook in hooks:
            hook.remove()
        dead = [entry["dead_channel_fraction"] for entry in found]
        return {
            "dead_channel_fraction": sum(dead) / len(dead),
            "smallest_denominator": min(entry["smallest_denominator"] for entry in found),
        }

    @torch.no_grad()
    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores (B, classes), float32, with the selected weights (before any selection the
        first ones), computed where the module was trained and given back where the tokens are.

        Args:
            tokens: int64 (B, N), or (B, 2, N) for pairs of documents.
            mask: bool of that shape, True for a real token; None where all are real.
        """
        device = self._trained_on or self.device
        return self._answers(self.best_network.to(device).eval(), tokens, mask, device)

    def _answers(
        self, network: nn.Module, tokens: Tensor, mask: Tensor | None, device: torch.device
    ) -> Tensor:
        mask = padding_only(mask)
        mask = None if mask is None else mask.to(device)
        return self._scores(network, tokens.to(device), mask).to(tokens.device)

    def _scores(self, network: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
        kind = tokens.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.autocast and kind != "cpu"):
            return network(tokens, mask)


def padding_only(mask: Tensor | None) -> Tensor | None:
    """The mask, or None where it hides nothing."""
    return None if mask is None or bool(mask.all()) else mask


def group_rate(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at `step` in the LOTFormer authors' code.

    0.1 + 0.9 (s + 1) / W for s < W, then 0.4 + 0.6 (1 + cos(pi t)) / 2 with t = (s - W) / (T - W):
    it ends at 0.4.
    """
    if step < warmup:
        return 0.1 + 0.9 * (step + 1) / warmup
    if step >= steps:
        return 0.4
    return 0.4 + 0.3 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def one_cycle(step: int, steps: int, warmup: int) -> tuple[float, float]:
    """The share of the learning rate and Adam's first beta at `step` in the Skyformer code.

    Torch's `OneCycleLR` with `warmup / steps` as the share that rises, linear, all else by default:
    the rate rises from 1/25 to 1 at step W - 1 and falls to 1/250,000 at step T - 1, while the
    first beta, which that class moves too, goes from 0.95 to 0.85 and back.
    """
    peak, last = warmup - 1, steps - 1
    if step <= peak:
        share = step / peak if peak else 1.0
        return 0.04 + 0.96 * share, 0.95 - 0.1 * share
    share = min(1.0, (step - peak) / (last - peak)) if last > peak else 1.0
    return 1.0 - (1.0 - 4e-6) * share, 0.85 + 0.1 * share
