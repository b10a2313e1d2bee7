"""One slicer trained on many pairs of clouds, told about each by a context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sextant.contracts import Autoencoder, Parent, Streams
from sextant.methods.backbones.training import (
    PROGRESS_EVERY,
    check_schedule,
    cosine,
    stop_if_diverged,
)
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.slicers import ConditionedSlicer, hard_plan
from sextant.methods.transport.sliced.training import adamw, check_weight_decay, seconds_now
from sextant.ranges import at_least, positive

Context = Literal["mean", "target"]
"""Whose code a pair's context is: the mean of both clouds' codes, or the target's alone."""


class AmortisedSlicer(pl.LightningModule):
    """A student that learns to match any pair of a family of clouds, and then never trains again.

    A batch is (source (P, N, d), target (P, N, d)). With a context, the run's parent "encoder"
    turns clouds into codes; it stays frozen, in evaluation mode, and is no part of the student's
    state. A linear map from codes to contexts is learned with the slicer. It is affine, so mapping
    the mean of two codes is the same as taking the mean of two mapped codes.

    AdamW, with a learning rate that falls along a cosine to 0 at `steps`. The objective's random
    numbers come from the stream "objective" at the number of the update. The buffer
    `training_seconds` holds the time of all steps.

    Args:
        slicer: one score a point; its context has `context_width` numbers, or none without context.
        objective: see `sextant.methods.transport.sliced.objectives`.
        learning_rate: of AdamW, at step 0.
        steps: batches until the learning rate is 0.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient, or None.
        context: None, "mean" (of the codes of source and target: the same when they swap) or
            "target" (a source that is noise tells nothing).
        code_width: numbers in a code of the encoder; needed with a context.
        context_width: numbers they are mapped to.
        inner_steps: updates on each batch, one after the other; they count as one step.

    Raises:
        ValueError: for a setting outside these ranges, or a context the slicer does not take.
        FloatingPointError: in training, when the loss is not finite.
    """

    training_seconds: Tensor

    def __init__(
        self,
        slicer: nn.Module,
        objective: Any,
        learning_rate: float,
        steps: int,
        weight_decay: float = 0.01,
        gradient_clip: float | None = 1.0,
        context: Context | None = None,
        code_width: int | None = None,
        context_width: int = 3,
        inner_steps: int = 1,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        check_weight_decay(weight_decay)
        if gradient_clip is not None:
            positive(gradient_clip=gradient_clip)
        at_least(1, inner_steps=inner_steps)
        if context not in (None, "mean", "target"):
            raise ValueError(f"context must be null, 'mean' or 'target', got {context!r}")
        if context is None and getattr(slicer, "context_width", 0):
            raise ValueError(
                f"context must be 'mean' or 'target' for a slicer that takes {slicer.context_width}"
                " numbers as context, got null"
            )
        if context is not None:
            if code_width is None:
                raise ValueError("code_width must be given with a context, got null")
            slicer = ConditionedSlicer(slicer, code_width, context_width)
        self.slicer, self.objective, self.context = slicer, objective, context
        self.learning_rate, self.steps, self.weight_decay = learning_rate, steps, weight_decay
        self.gradient_clip, self.inner_steps = gradient_clip, inner_steps
        self.register_buffer("training_seconds", torch.zeros((), dtype=torch.float64))
        self.streams = Streams(0)
        # In a tuple the frozen encoder is no submodule: no checkpoint or optimizer ever sees it.
        self._encoder: tuple[Autoencoder, ...] = ()
        self.automatic_optimization = False

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams, and the parent "encoder" if there is a context.

        Raises:
            ValueError: where that parent is missing.
        """
        self.streams = streams
        if self.context is not None:
            if "encoder" not in parents:
                raise ValueError(
                    f"parents must have an 'encoder' for the context {self.context!r}, "
                    f"got {sorted(parents)}"
                )
            self.use_encoder(parents["encoder"].load())

    def use_encoder(self, encoder: Any) -> None:
        """Takes the frozen autoencoder whose codes are the contexts, as `prepare` does."""
        if isinstance(encoder, nn.Module):
            encoder.eval().requires_grad_(False)
        self._encoder = (encoder,)

    @torch.no_grad()
    def codes(self, source: Tensor, target: Tensor) -> Tensor | None:
        """Codes (P, code_width) of pairs of clouds (P, N, d) and (P, M, d); None without context.

        Raises:
            ValueError: where there is a context but no encoder yet.
        """
        if self.context is None:
            return None
        if not self._encoder:
            raise ValueError("this student has no encoder yet; call prepare or use_encoder first")
        encoder = self._encoder[0]
        if isinstance(encoder, nn.Module):
            encoder.to(source.device)
        if self.context == "target":
            return encoder.encode(target)
        if source.shape == target.shape:
            return torch.stack(encoder.encode(torch.cat((source, target))).chunk(2)).mean(0)
        return torch.stack((encoder.encode(source), encoder.encode(target))).mean(0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """The updates on one batch."""
        started = seconds_now(self.device)
        step = self.global_step
        source, target = batch
        codes = self.codes(source, target)
        optimizer = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * cosine(step, self.steps)
        for update in range(self.inner_steps):
            generator = self.streams.generator("objective", step * self.inner_steps + update)
            loss = self.objective(self.slicer, source, target, codes, generator)
            stop_if_diverged(loss, step, self.steps)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.limit_gradient()
            # Lightning counts a step for every call of its own optimizer: only the last one.
            last = update + 1 == self.inner_steps
            (optimizer if last else optimizer.optimizer).step()
        self.training_seconds += seconds_now(self.device) - started
        if step % PROGRESS_EVERY == 0:
            self.log("loss", loss.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets its learning rate, a closed form of the step."""
        return adamw(self.slicer.parameters(), self.learning_rate, self.weight_decay)

    def limit_gradient(self) -> None:
        """Scales the gradient down to a norm of `gradient_clip`."""
        if self.gradient_clip is not None:
            parameters = self.slicer.parameters()
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip, foreach=True)

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """The plan between source (N, d) and target (M, d): codes, scores and two sorts.

        Raises:
            ValueError: where there is a context but no encoder yet.
        """
        clouds = [points[None].to(self.training_seconds.device) for points in (source, target)]
        weight = next(self.slicer.parameters())
        codes = self.codes(*(cloud.to(weight.dtype) for cloud in clouds))
        context = None if codes is None else codes[0]
        return hard_plan(self.slicer, source, target, context)
