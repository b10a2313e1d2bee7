"""One slicer trained on a sequence of problems, warm or from scratch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from sextant.contracts import Parent, Streams
from sextant.methods.backbones.training import PROGRESS_EVERY, check_schedule, stop_if_diverged
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.slicers import (
    SlicerMatcher,
    draw_weights,
    hard_plan,
    set_weights,
)
from sextant.methods.transport.sliced.training import (
    Keep,
    adamw,
    check_keep,
    check_weight_decay,
    seconds_now,
)
from sextant.ranges import at_least, within


class SequenceSlicer(pl.LightningModule):
    """A student that learns one problem after the other and remembers what it knew when.

    Optimizer step s belongs to problem s // iterations_each. A batch is (source (1, B, d),
    target (1, B, d), problem); the data module answers problem(p) -> (source (N, d), target (M, d))
    with the clouds the plan is judged on. AdamW starts afresh with every problem, and its learning
    rate is multiplied by `decay` every `decay_every` iterations inside a problem.

    The first problem always begins with weights drawn from the stream "initialisation", so a warm
    and a scratch student agree on it. A later problem begins with the weights the problem before it
    left behind (warm), or with weights drawn anew (scratch). The objective's random numbers come
    from the stream "objective" at the step's number.

    Buffers: `curve` (problems, evaluations), the hard-plan cost at the iterations `evaluated`;
    `snapshots` (problems, len(at), parameters), the weights kept at the iterations `at`;
    `training_seconds`, the time of all steps without that of the evaluations.

    Args:
        slicer: one score a point, without context and without buffers.
        objective: see `sextant.methods.transport.sliced.objectives`.
        learning_rate: of AdamW, at the first iteration of each problem.
        weight_decay: of AdamW.
        problems: how many problems there are.
        iterations_each: optimizer steps on each.
        at: iterations whose weights are kept, rising and ending with `iterations_each`; 0 is what a
            problem begins with.
        warm: whether a problem begins with what the one before it learned.
        keep: "best" keeps the weights of the cheapest hard plan evaluated so far in the problem,
            "last" the current ones.
        evaluate_every: iterations between two evaluations; those in `at` are evaluated as well.
        decay_every: iterations between two changes of the learning rate.
        decay: what it is multiplied by, in (0, 1].

    Raises:
        ValueError: for a setting outside these ranges, or a batch of another problem.
        FloatingPointError: in training, when the loss is not finite.
    """

    curve: Tensor
    snapshots: Tensor
    best_weights: Tensor
    best_cost: Tensor
    training_seconds: Tensor

    def __init__(
        self,
        slicer: nn.Module,
        objective: Any,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        problems: int = 7,
        iterations_each: int = 400,
        at: Sequence[int] = (0, 20, 100, 400),
        warm: bool = True,
        keep: Keep = "best",
        evaluate_every: int = 20,
        decay_every: int = 500,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, iterations_each)
        check_weight_decay(weight_decay)
        check_keep(keep)
        at_least(1, problems=problems, evaluate_every=evaluate_every, decay_every=decay_every)
        within("(0, 1]", decay=decay)
        at = tuple(at)
        if not at or sorted(set(at)) != list(at) or at[0] < 0 or at[-1] != iterations_each:
            raise ValueError(
                f"at must rise from 0 or more to iterations_each = {iterations_each}, got {at}"
            )
        if any(True for _ in slicer.buffers()):
            raise ValueError("slicer must have no buffers, only its parameters are kept")
        self.slicer, self.objective = slicer, objective
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.problems, self.iterations_each = problems, iterations_each
        self.warm, self.keep = warm, keep
        self.decay_every, self.decay = decay_every, decay
        self.iterations: tuple[int, ...] = at
        self.evaluated = tuple(sorted({*range(0, iterations_each, evaluate_every), *at}))
        weights = parameters_to_vector(slicer.parameters()).detach()
        self.register_buffer(
            "curve", torch.full((problems, len(self.evaluated)), math.nan, dtype=torch.float64)
        )
        nothing = weights.new_full((problems, len(at), len(weights)), math.nan)
        self.register_buffer("snapshots", nothing)
        self.register_buffer("best_weights", weights.clone())
        self.register_buffer("best_cost", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("training_seconds", torch.zeros((), dtype=torch.float64))
        self.streams = Streams(0)
        self.data: Any = None
        self.automatic_optimization = False

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the run's random streams and the data module, which knows the problems.

        Raises:
            TypeError: for a data module without problem(p).
        """
        if not callable(getattr(data, "problem", None)):
            raise TypeError(
                "data must have problem(p) -> (source, target) for a sequence of problems, "
                f"got {type(data).__name__}"
            )
        self.streams, self.data = streams, data

    def training_step(self, batch: tuple[Tensor, Tensor, int], batch_index: int) -> None:
        """One optimizer step on one batch, and an evaluation where one is due."""
        step = self.global_step
        problem, iteration = divmod(step, self.iterations_each)
        source, target, asked = batch
        if int(asked) != problem:
            raise ValueError(f"batch must be of problem {problem} at step {step}, got {int(asked)}")
        optimizer = self.optimizers()
        if iteration == 0:
            self._start(problem, optimizer)
        started = seconds_now(self.device)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * self.decay ** (iteration // self.decay_every)
        generator = self.streams.generator("objective", step)
        loss = self.objective(self.slicer, source, target, None, generator)
        stop_if_diverged(loss, step, self.problems * self.iterations_each)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.training_seconds += seconds_now(self.device) - started
        if iteration + 1 in self.evaluated:
            self._evaluate(problem, iteration + 1)
            self.log("cost", self.best_cost)
        if step % PROGRESS_EVERY == 0:
            self.log("loss", loss.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets its learning rate, a closed form of the step."""
        return adamw(self.slicer.parameters(), self.learning_rate, self.weight_decay)

    def after(self, problem: int, iteration: int) -> SlicerMatcher:
        """What the student was after `iteration` steps on a problem, one of `iterations`.

        Raises:
            ValueError: for a problem or an iteration it keeps no weights of.
        """
        if problem not in range(self.problems):
            raise ValueError(f"problem must be in 0..{self.problems - 1}, got {problem}")
        if iteration not in self.iterations:
            raise ValueError(f"iteration must be one of {self.iterations}, got {iteration}")
        slicer = copy.deepcopy(self.slicer)
        weights = self.snapshots[problem, self.iterations.index(iteration)]
        set_weights(slicer, weights)
        return SlicerMatcher(slicer.requires_grad_(False))

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """The plan between source (N, d) and target (M, d) after the last problem."""
        return self.after(self.problems - 1, self.iterations[-1]).match(source, target)

    @torch.no_grad()
    def _start(self, problem: int, optimizer: Any) -> None:
        """Sets the weights a problem begins with, and forgets the optimizer's past."""
        optimizer.state.clear()
        if problem == 0 or not self.warm:
            draw_weights(self.slicer, self.streams.generator("initialisation", problem))
        elif self.keep == "best":
            set_weights(self.slicer, self.best_weights)
        self.best_cost.fill_(math.inf)
        self._evaluate(problem, 0)

    @torch.no_grad()
    def _evaluate(self, problem: int, iteration: int) -> None:
        """Judges the hard plan on the whole problem and keeps what is to be kept."""
        source, target = (points.to(self.device) for points in self.data.problem(problem))
        plan = hard_plan(self.slicer, source, target)
        cost = plan.cost(source, target, self.objective.cost)
        weights = parameters_to_vector(self.slicer.parameters())
        if cost < self.best_cost:
            self.best_cost.copy_(cost)
            self.best_weights.copy_(weights)
        self.curve[problem, self.evaluated.index(iteration)] = cost
        if iteration in self.iterations:
            kept = self.best_weights if self.keep == "best" else weights
            self.snapshots[problem, self.iterations.index(iteration)] = kept
