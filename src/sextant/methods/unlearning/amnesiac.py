"""Amnesiac unlearning (Graves et al., AAAI 2021): takes back what single batches taught.

`UpdateRecorder` stands beside the training loop and keeps what each optimizer step changed;
`Amnesiac` subtracts the steps whose batches held an example to forget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import Seconds, working_copy
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch


@dataclass(frozen=True, eq=False)
class RecordedUpdate:
    """One optimizer step.

    Args:
        examples: numbers of the examples in its batch.
        changes: what it added to each parameter, on the CPU.
    """

    examples: frozenset[int]
    changes: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class UpdateLog:
    """The optimizer steps that were recorded, in order, of `steps` that were made."""

    updates: tuple[RecordedUpdate, ...]
    steps: int

    def holding(self, examples: Iterable[int]) -> UpdateLog:
        """The steps whose batches held at least one of the examples."""
        wanted = frozenset(int(example) for example in examples)
        kept = tuple(update for update in self.updates if update.examples & wanted)
        return UpdateLog(kept, self.steps)

    def total(self) -> dict[str, Tensor]:
        """What the steps added to each parameter together, float64, in one pass over the log."""
        sums: dict[str, Tensor] = {}
        for update in self.updates:
            for name, change in update.changes.items():
                if name in sums:
                    sums[name] += change
                else:
                    # A copy: sums are added to in place, and the log must stay as it is.
                    sums[name] = change.to(torch.float64, copy=True)
        return sums


class UpdateRecorder:
    """Records optimizer steps while a model is trained.

    >>> recorder = UpdateRecorder(model, watched=forget_numbers)
    >>> with recorder.step(batch_numbers):
    ...     optimizer.step()
    >>> recorder.log()

    A recorded step costs a copy of all parameters in memory. Where a whole class is forgotten
    almost every batch holds some of it, so almost every step is kept. Buffers, such as running
    statistics, are no sums of steps and are not recorded.

    Args:
        model: the model in training; its parameters are changed in place.
        watched: numbers of the examples that may have to be forgotten; None for all. Batches
            without any of them are not recorded.
    """

    def __init__(self, model: nn.Module, watched: Iterable[int] | None = None) -> None:
        self.model = model
        self.watched = None if watched is None else frozenset(int(number) for number in watched)
        self._updates: list[RecordedUpdate] = []
        self._steps = 0

    @contextmanager
    def step(self, examples: Iterable[int]) -> Iterator[None]:
        """Records the change of the parameters inside, made by a batch of these examples."""
        held = frozenset(int(example) for example in examples)
        self._steps += 1
        if self.watched is not None and not held & self.watched:
            yield
            return
        before = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        yield
        changes = {
            name: (value.detach() - before[name]).cpu()
            for name, value in self.model.named_parameters()
        }
        self._updates.append(RecordedUpdate(held, changes))

    def log(self) -> UpdateLog:
        """What was recorded so far."""
        return UpdateLog(tuple(self._updates), self._steps)


@dataclass(frozen=True, kw_only=True)
class Amnesiac:
    """Subtracts every recorded step of a batch that held an example to forget.

    The training log is an `UpdateLog` of just these steps, see `UpdateLog.holding`; no example is
    seen. Later steps were taken from where the subtracted ones had led, so this is no retraining,
    and after many subtracted steps the model is damaged, as its authors say. Running statistics
    stay. O(steps in the log x parameters), no pass through the network.
    """

    needs: ClassVar[Needs] = Needs(forget=False, training_log=True)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            ValueError: for a log of another model.
        """
        log, student, seconds = problem.training_log, working_copy(model), Seconds()
        with seconds.part("updates"), torch.no_grad():
            parameters = dict(student.named_parameters())
            for name, change in log.total().items():
                if name not in parameters or parameters[name].shape != change.shape:
                    raise ValueError(
                        f"training_log must be of this model, which has no parameter {name} "
                        f"of shape {tuple(change.shape)}"
                    )
                value = parameters[name]
                value.copy_(value.double() - change.to(value.device))
        student.eval()
        entry = {"epoch": 1.0} | dict({} if watch is None else watch(1, student))
        report = {"subtracted_steps": len(log.updates), "training_steps": log.steps}
        return Unlearned(student.eval(), dict(seconds), report, [entry])
