"""Training of a network around attentions whose temperature may fall while they learn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.attention.inspection import diagnostics, matrices
from sextant.methods.backbones.supervised import RecognitionModule
from sextant.methods.backbones.training import Adam

WATCHED = 1000
"""Validation examples that are classified while a network learns."""
LOOKED_AT = 32
"""Validation examples whose attention matrices are looked at."""


class AttentionClassifier(RecognitionModule):
    """Adam whose rate is divided by 10 at some shares of the steps; cross-entropy of class scores.

    Attentions that have `anneal` are told before every step what share of the steps is done. Every
    `watch_every` steps and after the last, accuracy on validation examples and what `diagnostics`
    says of the attentions are logged. The last weights are those that are examined.

    Args:
        network: has `logits` and `features`.
        learning_rate: before the first drop.
        steps: optimizer steps.
        drops: shares of the steps, ascending in (0, 1), at which the rate is divided by 10.
        watch_every: steps between two looks.

    Raises:
        ValueError: for settings outside these ranges.
        FloatingPointError: in training, when the loss is not finite.
    """

    timed_seconds: Tensor
    timed_steps: Tensor

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        steps: int,
        drops: Sequence[float] = (),
        watch_every: int = 500,
    ) -> None:
        super().__init__(network, learning_rate, steps)
        if list(drops) != sorted(drops) or not all(0 < share < 1 for share in drops):
            raise ValueError(f"drops must be ascending shares in (0, 1), got {list(drops)}")
        if watch_every < 1:
            raise ValueError(f"watch_every must be at least 1, got {watch_every}")
        self.drops, self.watch_every = tuple(drops), watch_every
        self.register_buffer("timed_seconds", torch.zeros((), dtype=torch.float64))
        self.register_buffer("timed_steps", torch.zeros((), dtype=torch.int64))
        self._watched: tuple[Tensor, Tensor] | None = None
        self._started = 0.0

    @property
    def parameter_count(self) -> int:
        """Numbers that are learnt."""
        return sum(weight.numel() for weight in self.network.parameters() if weight.requires_grad)

    @property
    def seconds_a_step(self) -> float | None:
        """Mean processor time of this thread for an optimizer step on a CPU; None elsewhere."""
        count = int(self.timed_steps)
        return float(self.timed_seconds) / count if count else None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the validation examples that are watched."""
        inputs, labels = data.examples("validation")
        self._watched = inputs[:WATCHED], labels[:WATCHED]

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and its rate, a closed form of the step."""
        optimizer = Adam(self.network.parameters(), lr=self.learning_rate, fused=True)

        def share(step: int) -> float:
            return 0.1 ** sum(step >= drop * self.steps for drop in self.drops)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Sets the temperatures of this step."""
        self._started = time.thread_time()
        for module in self.network.modules():
            if hasattr(module, "anneal"):
                module.anneal(self.global_step / self.steps)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Keeps the time of the step and, where it is due, looks at the network."""
        # The first step finds nothing in the caches.
        if self.device.type == "cpu" and self.global_step > 1:
            self.timed_seconds += time.thread_time() - self._started
            self.timed_steps += 1
        if self.global_step % self.watch_every == 0 or self.global_step == self.steps:
            inputs, labels = self._watched
            right = (self.logits(inputs).argmax(1) == labels).double().mean()
            self.log("validation_accuracy", 100 * right)
            for name, value in self.diagnostics(inputs[:LOOKED_AT]).items():
                self.log(name, value)

    def diagnostics(self, inputs: Tensor) -> dict[str, float]:
        """What `inspection.diagnostics` says of the attentions given inputs (n, *shape)."""
        device = next(self.network.parameters()).device
        return diagnostics(self.network, lambda: self.network.logits(inputs.to(device)))

    def attention_rows(self, inputs: Tensor) -> Tensor:
        """The attention matrices of every layer, (layers, n, heads, N, N), given inputs."""
        device = next(self.network.parameters()).device
        found = matrices(self.network, lambda: self.network.logits(inputs.to(device)))
        return torch.stack(found).to(inputs.device)
