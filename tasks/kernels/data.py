"""Random queries and keys, and the rows of attention that four target kernels make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from sextant.contracts import Streams
from sextant.ranges import at_least
from tasks.shared.stepwise import StepwiseData

Batch = tuple[Tensor, Tensor, Tensor]


def exponential(queries: Tensor, keys: Tensor) -> Tensor:
    """exp(q . k / sqrt(d)): the rows are those of softmax attention."""
    return (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).exp()


def gaussian(queries: Tensor, keys: Tensor) -> Tensor:
    """exp(-|q - k|^2 / (2 sigma^2)) with sigma^2 = d / 4."""
    distances = (queries[..., :, None, :] - keys[..., None, :, :]).square().sum(-1)
    return (-2.0 / queries.shape[-1] * distances).exp()


def even(queries: Tensor, keys: Tensor) -> Tensor:
    """(q . k)^2 / d + 0.05: a query likes a key as much as its opposite."""
    return (queries @ keys.transpose(-1, -2)).square() / queries.shape[-1] + 0.05


def periodic(queries: Tensor, keys: Tensor) -> Tensor:
    """1.02 + cos 2 (q1 - k1) cos 2 (q2 - k2): of the first two coordinates alone."""
    apart = queries[..., :, None, :2] - keys[..., None, :, :2]
    return 1.02 + (2.0 * apart).cos().prod(-1)


KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exponential": exponential,
    "gaussian": gaussian,
    "even": even,
    "periodic": periodic,
}
"""Positive kernels of queries (..., n, d) and keys (..., m, d), values (..., n, m)."""


def target_rows(kernel: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Rows (..., n, m) of a kernel's values, each divided by its sum."""
    values = KERNELS[kernel](queries, keys)
    return values / values.sum(-1, keepdim=True)


class KernelData(StepwiseData):
    """Batches (queries (B, n, d), keys (B, n, d), target rows (B, n, n)), fresh at every step.

    Queries and keys are N(0, I_d). The evaluation batches depend on `evaluation_seed` alone, so
    that every map answers the same exam.

    Args:
        kernel: "exponential", "gaussian", "even" or "periodic".
        batch_size: sets of queries and keys in a batch.
        steps: batches of a run, 0 for a map that learns nothing.
        tokens: n.
        dimension: d, at least 2.
        evaluation_batches: how many batches the exam uses.
        evaluation_seed: fixes them.

    Raises:
        ValueError: for another kernel or a size out of range.
    """

    def __init__(
        self,
        kernel: str,
        batch_size: int,
        steps: int,
        tokens: int = 64,
        dimension: int = 8,
        evaluation_batches: int = 50,
        evaluation_seed: int = 2512,
    ) -> None:
        super().__init__(batch_size, steps)
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
        at_least(1, tokens=tokens, evaluation_batches=evaluation_batches)
        at_least(2, dimension=dimension)
        self.kernel, self.tokens, self.dimension = kernel, tokens, dimension
        self.evaluation_batches, self.evaluation_seed = evaluation_batches, evaluation_seed

    def draw_batch(self, step: int) -> Batch:
        """Queries, keys and target rows of a step."""
        return self._drawn(self.streams.generator("tokens", step))

    def evaluation(self) -> Iterator[Batch]:
        """The exam's batches, in their order."""
        streams = Streams(self.evaluation_seed)
        for place in range(self.evaluation_batches):
            yield self._drawn(streams.generator("evaluation tokens", place))

    def fingerprints(self) -> dict[str, str]:
        """The law: kernel and sizes."""
        return {"kernel": f"{self.kernel}, {self.tokens} tokens of N(0, I_{self.dimension})"}

    def _drawn(self, generator: Generator) -> Batch:
        size = (2, self.batch_size, self.tokens, self.dimension)
        queries, keys = torch.randn(size, generator=generator)
        return queries, keys, target_rows(self.kernel, queries, keys)
