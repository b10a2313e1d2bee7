"""Feature maps as kernels: the rows of attention they make, and their fit to a target kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.methods.attention.base import Attention
from sextant.methods.backbones.training import PROGRESS_EVERY, Adam, stop_if_diverged
from sextant.ranges import at_least, positive, within

SMALLEST_TOTAL = 1e-12
"""A row of kernel values with a smaller sum has nothing to say and is taken for uniform."""
GRID = 201
"""Points at which channel functions are shown."""


class KernelRows(nn.Module):
    """The rows of attention that a feature map makes: a student that needs no training.

    With K = max(phi(q) phi(k)^T, 0), a row is (1 - s) K / sum(K) + s / n. The share s of the
    uniform row keeps the divergence from a target finite where features are orthogonal, or, for
    random Fourier features, where the estimate of the kernel is negative.

    O(B n (n F + cost of phi)) time, O(B n (n + F)) memory.

    Args:
        attention: of one head or any number of heads, with `query_features` and `key_features`, or
            with a `feature_map` for both.
        smoothing: s, in (0, 1).

    Raises:
        ValueError: for a smoothing outside that range, or an attention without feature maps.
    """

    def __init__(self, attention: Attention, smoothing: float = 1e-3) -> None:
        super().__init__()
        within("(0, 1)", smoothing=smoothing)
        both = hasattr(attention, "query_features") and hasattr(attention, "key_features")
        if not both and not hasattr(attention, "feature_map"):
            raise ValueError(
                "attention must offer query_features and key_features, or a feature_map, "
                f"got {type(attention).__name__}"
            )
        self.attention, self.smoothing = attention, smoothing

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare: the map was drawn when it was made."""

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Rows (B, n, m) of queries (B, n, d) and keys (B, m, d): positive, with the sum 1."""
        query_features, key_features = self._features(queries[:, None], keys[:, None])
        kernel = (query_features @ key_features.transpose(-1, -2))[:, 0].clamp(min=0)
        total = kernel.sum(-1, keepdim=True)
        empty = total < SMALLEST_TOTAL
        uniform = 1.0 / kernel.shape[-1]
        rows = torch.where(empty, uniform, kernel / total.masked_fill(empty, 1.0))
        return (1.0 - self.smoothing) * rows + self.smoothing * uniform

    @torch.no_grad()
    def rows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """As `forward`, without a graph, back where the queries are."""
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else queries.device
        return self(queries.to(device), keys.to(device)).to(queries.device)

    @torch.no_grad()
    def channel_functions(self, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """The scalar functions of LUNA's map where tokens (..., d) reach them; None without any.

        Returns:
            Arguments (201,) evenly over the range between the 1st and the 99th percentile of all
            projections, and the functions' values there (201, L); on the CPU.
        """
        feature_map = getattr(self.attention, "feature_map", None)
        if feature_map is None:
            return None
        arguments = feature_map.project(tokens.to(feature_map.projection.device)).flatten()
        low, high = arguments.quantile(arguments.new_tensor([0.01, 0.99])).tolist()
        grid = torch.linspace(low, high, GRID)
        return grid, feature_map.values(grid.to(arguments.device)).cpu()

    def _features(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self.attention, "query_features"):
            return self.attention.query_features(queries), self.attention.key_features(keys)
        together = self.attention.feature_map(torch.cat((queries, keys), 2))
        return together[:, :, : queries.shape[2]], together[:, :, queries.shape[2] :]


class KernelFit(pl.LightningModule):
    """A student that learns a feature map whose rows are close to those of a target kernel.

    A batch is (queries (B, n, d), keys (B, m, d), target rows (B, n, m)). The loss is the mean over
    rows of KL(target || row); Adam, with a learning rate that stays. A map without parameters is no
    task for training: it takes 0 steps, or is examined as `KernelRows`.

    Args:
        attention: see `KernelRows`.
        steps: optimizer steps, 0 for a map without parameters.
        learning_rate: of Adam.
        smoothing: see `KernelRows`.

    Raises:
        ValueError: for a setting out of range, or steps for a map without parameters.
        FloatingPointError: in training, when the loss is not finite.
    """

    def __init__(
        self,
        attention: Attention,
        steps: int = 800,
        learning_rate: float = 5e-3,
        smoothing: float = 1e-3,
    ) -> None:
        super().__init__()
        at_least(0, steps=steps)
        positive(learning_rate=learning_rate)
        self.kernel = KernelRows(attention, smoothing)
        self.steps, self.learning_rate = steps, learning_rate
        if steps and not list(self.kernel.parameters()):
            raise ValueError(f"steps must be 0 for a map without parameters, got {steps}")
        self.automatic_optimization = False

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare: the data module draws the batches, nothing here is random."""

    def loss(self, queries: Tensor, keys: Tensor, target: Tensor) -> Tensor:
        """The mean over rows of KL(target || row)."""
        return row_divergence(target, self.kernel(queries, keys)).mean()

    def training_step(self, batch: Any, batch_index: int) -> None:
        """One optimizer step on one batch."""
        step = self.global_step
        loss = self.loss(*batch)
        stop_if_diverged(loss, step, self.steps)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if step % PROGRESS_EVERY == 0:
            self.log("row_divergence", loss.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Adam, or None where there is nothing to learn."""
        parameters = list(self.kernel.parameters())
        return Adam(parameters, self.learning_rate, fused=True) if parameters else None

    def rows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Rows (B, n, m) of queries (B, n, d) and keys (B, m, d): positive, with the sum 1."""
        return self.kernel.rows(queries, keys)

    def channel_functions(self, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """See `KernelRows.channel_functions`."""
        return self.kernel.channel_functions(tokens)


def row_divergence(target: Tensor, rows: Tensor) -> Tensor:
    """KL(target || rows) of every row (..., m): (...), where 0 log 0 = 0; rows must be positive."""
    return (torch.special.xlogy(target, target) - target * rows.log()).sum(-1)
