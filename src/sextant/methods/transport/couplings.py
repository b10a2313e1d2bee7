"""The couplings of OT-MeanFlow as a training step calls them (arXiv 2509.22592).

A coupling decides which source sample of a batch travels to which target sample. It only ever
returns `Pairs`: it selects rows, and never makes new points.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Streams
from sextant.methods.transport.costs import comparable, flat_clouds, squared_distances
from sextant.methods.transport.exact import exact_pairs
from sextant.methods.transport.linear import linear_pairs
from sextant.methods.transport.pairs import Pairs, in_batch_order
from sextant.methods.transport.sinkhorn import sample_pairs, sinkhorn_plan
from sextant.ranges import at_least, positive


class Coupling:
    """What a training step asks of a coupling."""

    def prepare(self, data: Any, streams: Streams) -> None:
        """Called once before training, with the task's data module and the run's streams."""

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """Pairs of a batch: source and target (n, *shape), labels (n,) of the targets or None.

        All randomness comes from `generator`, a CPU generator; equal calls give equal pairs.

        Raises:
            TypeError: for points that are no tensors of floating-point numbers.
            ValueError: for empty, unequal or not finite batches.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it pairs")


class Independent(Coupling):
    """Row k of the source with row k of the target, as they were drawn ("Gaussian pairing")."""

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`."""
        flat_clouds(source, target)
        return in_batch_order(torch.arange(len(target), device=target.device))


class Exact(Coupling):
    """The bijection of least total squared distance; see `exact_pairs`."""

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`."""
        return exact_pairs(source, target)


class Sinkhorn(Coupling):
    """A target drawn for each source row from the row of an entropic plan, in float32.

    Marginals: the source exactly, the target on average over draws.

    Args:
        epsilon: regularisation, relative to the mean squared distance between the two clouds after
            each is moved to mean 0. Moving a cloud changes no optimal plan, and so it changes
            neither the regularisation nor the pairs here; at equal means this is the mean cost.
        iterations: most Sinkhorn iterations.
        tolerance: they end earlier once every column has its mass up to this share; None never.

    Raises:
        ValueError: for settings that are not positive.
    """

    def __init__(
        self, epsilon: float = 0.05, iterations: int = 100, tolerance: float | None = 1e-3
    ) -> None:
        positive(epsilon=epsilon)
        at_least(1, iterations=iterations)
        if tolerance is not None:
            positive(tolerance=tolerance)
        self.epsilon, self.iterations, self.tolerance = epsilon, iterations, tolerance

    @torch.no_grad()
    def plan(self, source: Tensor, target: Tensor) -> Tensor:
        """The plan (n, n) between source and target (n, *shape), total mass 1, float32."""
        source, target = flat_clouds(source, target)
        cost = squared_distances(*comparable(source, target, torch.float32))
        mean = cost.mean().item()
        # Clouds that are one point each: every plan costs nothing, and the uniform one is returned.
        epsilon = self.epsilon * mean if mean > 0 else 1.0
        return sinkhorn_plan(cost, epsilon, self.iterations, self.tolerance)

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`."""
        return in_batch_order(sample_pairs(self.plan(source, target), generator))


class LinearOT(Coupling):
    """The bijection through a fixed reference; see `linear_pairs`.

    The reference is drawn from the source law. A batch of n points uses its first n points, so the
    reference of a batch depends on nothing but n and the run's seed.

    Args:
        reference_size: points drawn at the beginning, and again whenever a batch needs more.
        reference_seed_purpose: name of the random stream the reference is drawn from.

    Raises:
        ValueError: for a reference without points.
    """

    def __init__(
        self, reference_size: int = 256, reference_seed_purpose: str = "reference"
    ) -> None:
        at_least(1, reference_size=reference_size)
        self.reference_size = reference_size
        self.reference_seed_purpose = reference_seed_purpose
        self._data: Any = None
        self._streams: Streams | None = None
        self._points: Tensor | None = None

    def prepare(self, data: Any, streams: Streams) -> None:
        """Draws the reference with `data.draw_source(n, generator)`.

        Raises:
            TypeError: for a data module that cannot draw from the source law.
        """
        if not callable(getattr(data, "draw_source", None)):
            raise TypeError(
                "data must have draw_source(n, generator) for linear OT to draw its reference "
                f"from the source law, got {type(data).__name__}"
            )
        self._data, self._streams = data, streams
        self._points = self._draw(0)

    def _draw(self, block: int) -> Tensor:
        generator = self._streams.generator(self.reference_seed_purpose, block)
        return self._data.draw_source(self.reference_size, generator)

    def reference(self, n: int) -> Tensor:
        """The first n points of the reference, (n, *shape).

        Raises:
            ValueError: when `prepare` was not called before.
        """
        if self._points is None:
            raise ValueError("linear OT has no reference yet; call prepare(data, streams) first")
        while len(self._points) < n:
            block = len(self._points) // self.reference_size
            self._points = torch.cat([self._points, self._draw(block)])
        return self._points[:n]

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`."""
        return linear_pairs(source, target, self.reference(len(source)).to(source))


class WithinClasses(Coupling):
    """Another coupling, solved inside each class: a class keeps the source rows it was drawn with.

    A coupling that ignores labels makes the source depend on the label of its target, but a sampler
    draws them independently. Here the rows of a label's targets are the only sources they can get,
    and those were drawn independently of the label.

    Args:
        coupling: what pairs the rows of one class.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling

    def prepare(self, data: Any, streams: Streams) -> None:
        """Shows the inner coupling the data module."""
        self.coupling.prepare(data, streams)

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> Pairs:
        """See `Coupling.__call__`.

        Raises:
            ValueError: without labels, or where their number is not the number of targets.
        """
        if labels is None:
            raise ValueError("labels must be given to pair within classes, got None")
        if labels.shape != target.shape[:1]:
            raise ValueError(
                f"labels must have shape ({len(target)},), one a target, got {tuple(labels.shape)}"
            )
        flat_clouds(source, target)
        source_index = torch.empty(len(target), dtype=torch.int64, device=target.device)
        target_index = torch.empty_like(source_index)
        order = labels.argsort(stable=True)
        _, sizes = torch.unique_consecutive(labels[order], return_counts=True)
        for rows in order.split(sizes.tolist()):
            inner = self.coupling(source[rows], target[rows], generator)
            source_index[rows] = rows[inner.source_index]
            target_index[rows] = rows[inner.target_index]
        return Pairs(source_index, target_index)
