"""Training of a flow: pairs, times, loss, Adam, and a running average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.backbones.training import (
    PROGRESS_EVERY,
    adam_with_cosine,
    check_schedule,
    stop_if_diverged,
)
from sextant.methods.flow.objectives import Objective
from sextant.methods.flow.sampling import sample
from sextant.methods.transport.pairs import take_pairs
from sextant.ranges import positive, within

CHUNK = 8192
"""Rows generated at a time."""


class FlowModule(pl.LightningModule):
    """A student that learns to carry source samples to data samples.

    A batch is (source (n, *shape), target (n, *shape), labels (n,) or None). Adam with a cosine
    schedule trains `network`; samples are generated with `ema_network`, the running average
    ema_k = ema_{k-1} + (1 - d) / (1 - d^k) (weights_k - ema_{k-1}) after optimizer step k >= 1.
    These are the normalised weights of Adam's bias correction: the first average is the first
    trained network, and the untrained one never counts.

    Every random number comes from the streams "coupling" and "times" at the step's number, so an
    interrupted run goes on as if nothing had happened.

    Args:
        network: called as network(z, t, h, labels).
        objective: see `sextant.methods.flow.objectives`.
        coupling: called as coupling(source, target, generator, labels), returns `Pairs`.
        learning_rate: of Adam, at step 0.
        steps: optimizer steps until the learning rate is 0.
        ema_decay: d above, in [0, 1); 0 generates with the last weights.
        gradient_clip: largest norm of the gradient, or None.

    Raises:
        ValueError: for a setting outside these ranges.
        FloatingPointError: in training, when the loss is not finite.
    """

    loss_name = "squared_error"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        coupling: Any,
        learning_rate: float,
        steps: int,
        ema_decay: float = 0.99,
        gradient_clip: float | None = 10.0,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        within("[0, 1)", ema_decay=ema_decay)
        if gradient_clip is not None:
            positive(gradient_clip=gradient_clip)
        self.network = network
        self.ema_network = copy.deepcopy(network).requires_grad_(False).eval()
        self.objective, self.coupling = objective, coupling
        self.learning_rate, self.steps = learning_rate, steps
        self.ema_decay, self.gradient_clip = ema_decay, gradient_clip
        self.weights = list(self.network.parameters())
        self.averages = list(self.ema_network.parameters())
        self.streams = Streams(0)
        self.automatic_optimization = False

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams and shows the coupling the data module."""
        self.streams = streams
        self.coupling.prepare(data, streams)

    def loss(
        self, source: Tensor, target: Tensor, labels: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """(loss, raw squared error) of one unpaired batch at a step; a pure function of both."""
        pairs = self.coupling(
            source, target, self.streams.generator("coupling", step), labels=labels
        )
        source, target, labels = take_pairs(pairs, source, target, labels)
        times = self.streams.generator("times", step)
        return self.objective(self.network, source, target, labels, times)

    def training_step(self, batch: Any, batch_index: int) -> None:
        """One optimizer step on one batch.

        Optimised by hand: at this size Lightning's automatic optimisation costs a tenth of a step.
        """
        step = self.global_step
        loss, error = self.loss(*batch, step)
        stop_if_diverged(loss, step, self.steps)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.limit_gradient()
        optimizer.step()
        self.lr_schedulers().step()
        self.update_average(step + 1)
        if step % PROGRESS_EVERY == 0:
            self.log(self.loss_name, error)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and the cosine schedule."""
        return adam_with_cosine(self.weights, self.learning_rate, self.steps)

    def limit_gradient(self) -> None:
        """Scales the gradient down to a norm of `gradient_clip`."""
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.gradient_clip, foreach=True)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Moves `ema_network` after optimizer step number `step`, the first being 1."""
        share = (1.0 - self.ema_decay) / (1.0 - self.ema_decay**step)
        torch._foreach_lerp_(self.averages, self.weights, share)
        pairs = zip(self.ema_network.buffers(), self.network.buffers(), strict=True)
        for average, value in pairs:
            average.copy_(value)

    @torch.no_grad()
    def generate(self, source: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """Samples (n, *shape) from source (n, *shape) with the averaged weights.

        Each sample costs exactly `steps` evaluations of the network; the result is where `source`
        is, whatever device the network is on.
        """
        self.ema_network.eval()
        device = next(self.ema_network.parameters()).device
        averages = self.objective.averages
        chunks = []
        for first in range(0, len(source), CHUNK):
            rows = slice(first, first + CHUNK)
            asked = None if labels is None else labels[rows].to(device)
            z = sample(self.ema_network, source[rows].to(device), steps, asked, averages)
            chunks.append(z.to(source.device))
        return torch.cat(chunks) if chunks else source.clone()
