"""Training of the networks other students lean on: reconstruction and recognition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.contracts import Parent, Streams
from sextant.methods.backbones.training import (
    PROGRESS_EVERY,
    adam_with_cosine,
    check_schedule,
    stop_if_diverged,
)

CHUNK = 2000
"""Rows answered at a time in evaluation."""


class SupervisedModule(pl.LightningModule):
    """Adam with a cosine schedule over `steps` on the loss a subclass defines.

    Args:
        network: the network.
        learning_rate: of Adam, at step 0.
        steps: optimizer steps until the learning rate is 0.

    Raises:
        ValueError: for a learning rate or a number of steps that is not positive.
        FloatingPointError: in training, when the loss is not finite.
    """

    loss_name: str

    def __init__(self, network: nn.Module, learning_rate: float, steps: int) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        self.network, self.learning_rate, self.steps = network, learning_rate, steps

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare: the data module draws the batches, nothing here is random."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The scalar loss of a batch."""

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of one batch."""
        step = self.global_step
        loss = self.loss(batch)
        stop_if_diverged(loss, step, self.steps)
        if step % PROGRESS_EVERY == 0:
            self.log(self.loss_name, loss.detach())
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and the cosine schedule."""
        return adam_with_cosine(self.network.parameters(), self.learning_rate, self.steps)

    @torch.no_grad()
    def answer(self, ask: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """`ask` on inputs (n, ...) in chunks, evaluation mode, back on the inputs' device."""
        training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        chunks = [ask(rows.to(device)).to(inputs.device) for rows in inputs.split(CHUNK)]
        self.network.train(training)
        return torch.cat(chunks)


class ReconstructionModule(SupervisedModule):
    """Learns to rebuild images: mean squared error; a batch is images or (images, labels)."""

    loss_name = "squared_error"

    def loss(self, batch: Any) -> Tensor:
        """Mean squared error of the reconstruction, over images and pixels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return functional.mse_loss(self.network(images), images)

    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to codes (n, code)."""
        return self.answer(self.network.encode, inputs)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, code) to inputs (n, *shape)."""
        return self.answer(self.network.decode, codes)


class RecognitionModule(SupervisedModule):
    """Learns to name classes: cross-entropy; a batch is (images, labels)."""

    loss_name = "cross_entropy"

    def loss(self, batch: Any) -> Tensor:
        """Mean cross-entropy of the labels (n,) int64."""
        images, labels = batch
        return functional.cross_entropy(self.network(images), labels)

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to class scores (n, classes)."""
        return self.answer(self.network.logits, inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs (n, *shape) to the penultimate features (n, width)."""
        return self.answer(self.network.features, inputs)
