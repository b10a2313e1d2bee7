"""Climbing the loss of the forget set, alone or against the loss of the retained data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Updates,
    check_share,
    device_of,
    endless,
    shuffled,
    stop_examples,
    working_copy,
)
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch


@dataclass(frozen=True, kw_only=True)
class NegGrad(Updates):
    """Gradient ascent: minimises -CE on the forget set (Golatkar et al., CVPR 2020).

    The loss has no bound, so a run that goes on after it forgot only does damage: `stop_at` ends
    it. Rate, epochs and the frozen statistics are those of the UNSC notebook (arXiv 2404.13588).

    Args:
        See `Updates`.
    """

    rate: float = 5e-5
    epochs: int = 30
    batch_norm: BatchNormMode = "eval"
    needs: ClassVar[Needs] = Needs()

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget = problem.forget.to(device_of(model))
        return self.run(
            working_copy(model),
            shuffled(forget, self.batch_size, streams, "neggrad/order"),
            lambda network, batch: -cross_entropy(network(batch[0]), batch[1]),
            forget,
            watch,
        )


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(Updates):
    """Minimises alpha CE(retained) - (1 - alpha) CE(forgotten) (Kurmanji et al., NeurIPS 2023).

    An epoch is one pass over the retained data. Each of its batches meets a batch of the forget
    set, which is gone through again and again, every time in a new order. The two batches pass the
    network apart, so with `batch_norm="train"` each has its own statistics.

    Args:
        alpha: weight of the retained data, in [0, 1].
        See `Updates` for the others; rate and epochs are ours.
    """

    rate: float = 0.01
    epochs: int = 5
    alpha: float = 0.95
    needs: ClassVar[Needs] = Needs(retain="all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("alpha", self.alpha)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`."""
        forget, retain = (part.to(device_of(model)) for part in (problem.forget, problem.retain))

        def pairs(epoch: int) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
            kept = retain.batches(self.batch_size, streams.generator("neggrad+/retain", epoch))
            forgotten = endless(
                forget, self.batch_size, streams.generator("neggrad+/forget", epoch)
            )
            return zip(kept, forgotten, strict=False)

        def loss(network: nn.Module, pair: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
            kept, forgotten = (cross_entropy(network(part[0]), part[1]) for part in pair)
            return self.alpha * kept - (1 - self.alpha) * forgotten

        return self.run(
            working_copy(model), pairs, loss, stop_examples(self, problem, model), watch
        )
