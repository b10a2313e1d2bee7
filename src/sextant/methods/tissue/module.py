"""Training of a simulator: plain, on what the Kelvinlet prior leaves, or held to that prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.contracts import Grasps, Material, Parent, Streams, TissueMesh
from sextant.methods.backbones.training import (
    PROGRESS_EVERY,
    adam_with_cosine,
    check_schedule,
    stop_if_diverged,
)
from sextant.methods.tissue.geometry import (
    CHANNELS,
    Channel,
    Geometry,
    chosen_nodes,
    geometry_of,
    node_inputs,
)
from sextant.methods.tissue.networks import zero_last_layer
from sextant.methods.tissue.prior import KelvinletPrior

ResidualSpace = Literal["standardised", "physical"]
CHUNK = 32
"""Grasps answered at a time."""
CONSTANT = 1e-6
"""Channels that vary less in training are constant, and must stay so."""


class TissueModule(pl.LightningModule):
    """A simulator learned from solved grasps; a batch is (grasps, displacement (B, N, 3) metres).

    With standardised outputs n(u) = (u - mean) / std, and n_K for the prior u_K, it answers

        plain                      n^-1(g)
        residual, standardised     n^-1(n_K(u_K) + g)       as in the released code
        residual, physical         u_K + std g

    and learns g by the mean squared error of standardised outputs. Regularisation adds
    `regularisation` times the same error on grasps without solution, whose target is u_K. Those
    grasps and the nodes a step looks at come from streams of their own: with regularisation 0
    every weight is that of a student without it.

    Args:
        network: see `sextant.methods.tissue.networks`.
        prior: the Kelvinlets.
        learning_rate, steps: of Adam with a cosine schedule.
        residual: whether the prior is added to the answer; g then starts at 0.
        residual_space: "standardised" or "physical".
        regularisation: at least 0; 1 in the released code.
        pool: grasps without solution that are drawn beforehand.
        nodes: how many nodes a training step looks at, held ones always; None takes all, as do
            networks that need the whole mesh.
        normals: whether channels 3 to 5 hold the surface's normals instead of zeros.
        transform_penalty: weight of the network's own penalty, where it has one.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        prior: KelvinletPrior,
        learning_rate: float,
        steps: int,
        residual: bool = False,
        residual_space: ResidualSpace = "standardised",
        regularisation: float = 0.0,
        pool: int = 2000,
        nodes: int | None = None,
        normals: bool = False,
        transform_penalty: float = 0.01,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, steps)
        if residual_space not in get_args(ResidualSpace):
            allowed = " or ".join(map(repr, get_args(ResidualSpace)))
            raise ValueError(f"residual_space must be {allowed}, got {residual_space!r}")
        if regularisation < 0.0:
            raise ValueError(f"regularisation must be at least 0, got {regularisation}")
        if pool < 1:
            raise ValueError(f"pool must be at least 1, got {pool}")
        self.network, self.prior = network, prior
        self.learning_rate, self.steps = learning_rate, steps
        self.residual, self.residual_space = residual, residual_space
        self.regularisation, self.pool_size = regularisation, pool
        self.node_sample, self.normals = nodes, normals
        self.transform_penalty = transform_penalty
        for name, width in (("input", CHANNELS), ("output", 3), ("prior", 3)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))
        if residual:
            zero_last_layer(network)
        self.streams = Streams(0)
        self._geometry: tuple[TissueMesh, Geometry] | None = None

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the streams, fits the standardisation to the training grasps, draws the pool."""
        self.streams, self.poisson = streams, data.material.poisson
        self.training_mesh = data.mesh
        geometry = self.geometry(data.mesh)
        grasps, displacement = data.train.grasps, data.train.displacement
        sums = {"input": [], "prior": [], "output": []}
        for first in range(0, len(grasps), CHUNK):
            part = grasps.rows(slice(first, first + CHUNK))
            found = {
                "input": node_inputs(geometry, part, self.normals),
                "prior": self.prior(geometry.positions, part, self.poisson),
                "output": displacement[first : first + CHUNK],
            }
            for name, values in found.items():
                flat = values.flatten(0, 1).double()
                sums[name].append((len(flat), flat.sum(0), flat.square().sum(0)))
        for name, parts in sums.items():
            count = sum(part[0] for part in parts)
            mean = sum(part[1] for part in parts) / count
            variance = sum(part[2] for part in parts) / count - mean.square()
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(variance.clamp(min=0).sqrt() + CONSTANT)
        if self.regularisation:
            seed = int(torch.randint(2**31, (), generator=streams.generator("synthetic grasps")))
            self.pool = data.synthetic_grasps(self.pool_size, seed)

    def geometry(self, mesh: TissueMesh) -> Geometry:
        """The tensors of a mesh; those of the last mesh are kept."""
        if self._geometry is None or self._geometry[0] is not mesh:
            self._geometry = (mesh, geometry_of(mesh))
        kept = self._geometry[1]
        device = self.input_mean.device
        if kept.positions.device != device:
            kept = kept.to(device)
            self._geometry = (mesh, kept)
        return kept

    def loss(self, batch: tuple[Grasps, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """(loss, mean squared error) of a batch at a step; a pure function of both."""
        grasps, displacement = batch
        error = self.error(grasps, displacement, self.streams.generator("nodes", step))
        loss = error
        penalty = getattr(self.network, "penalty", None)
        if penalty is not None:
            loss = loss + self.transform_penalty * penalty
        if self.regularisation:
            generator = self.streams.generator("synthetic batch", step)
            rows = torch.randint(len(self.pool), (len(grasps),), generator=generator)
            drawn = self.pool.rows(rows)
            drawn = Grasps(
                drawn.nodes.to(grasps.nodes.device), drawn.displacement.to(grasps.nodes.device)
            )
            loss = loss + self.regularisation * self.error(drawn, None, generator)
        return loss, error.detach()

    def error(self, grasps: Grasps, wanted: Tensor | None, generator: torch.Generator) -> Tensor:
        """Mean squared error in standardised outputs; without `wanted` the prior is wanted."""
        geometry = self.geometry(self.training_mesh)
        inputs, rows = node_inputs(geometry, grasps, self.normals), None
        count = inputs.shape[1]
        if self.node_sample is not None and self.network.any_nodes and self.node_sample < count:
            rows = chosen_nodes(grasps, count, self.node_sample, generator)[..., None]
            inputs = inputs.gather(1, rows.expand(-1, -1, CHANNELS))
            if wanted is not None:
                wanted = wanted.gather(1, rows.expand(-1, -1, 3))
        base = None
        if self.residual or wanted is None:
            points = None if rows is None else inputs[..., : Channel.NORMAL]
            base = self.prior(geometry.positions, grasps, self.poisson, points)
        target = self.target(base if wanted is None else wanted, base)
        return functional.mse_loss(self.correction(inputs, geometry), target)

    def target(self, displacement: Tensor, base: Tensor | None) -> Tensor:
        """What g should be for a displacement (B, n, 3) and its prior."""
        if not self.residual:
            return (displacement - self.output_mean) / self.output_std
        if self.residual_space == "physical":
            return (displacement - base) / self.output_std
        target = (displacement - self.output_mean) / self.output_std
        return target - (base - self.prior_mean) / self.prior_std

    def answer(self, correction: Tensor, base: Tensor | None) -> Tensor:
        """The displacement (B, n, 3) of g and the prior: `target` solved for it."""
        if not self.residual:
            return self.output_mean + self.output_std * correction
        if self.residual_space == "physical":
            return base + self.output_std * correction
        standard = (base - self.prior_mean) / self.prior_std + correction
        return self.output_mean + self.output_std * standard

    def correction(self, inputs: Tensor, geometry: Geometry) -> Tensor:
        """g (B, n, 3) of raw channels (B, n, 10)."""
        held = inputs[..., Channel.HELD] > 0.5
        return self.network((inputs - self.input_mean) / self.input_std, held, geometry)

    def training_step(self, batch: tuple[Grasps, Tensor], batch_index: int) -> Tensor:
        """The loss of one batch."""
        step = self.global_step
        loss, error = self.loss(batch, step)
        stop_if_diverged(loss, step, self.steps)
        if step % PROGRESS_EVERY == 0:
            self.log("squared_error", error)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and the cosine schedule."""
        return adam_with_cosine(self.network.parameters(), self.learning_rate, self.steps)

    @torch.no_grad()
    def simulate(self, mesh: TissueMesh, grasps: Grasps, material: Material) -> Tensor:
        """The displacement (B, N, 3), metres, of every node.

        The network knows the material it was trained with; the prior takes the one given.

        Raises:
            ValueError: when a channel that was constant in training varies now.
        """
        geometry, device = self.geometry(mesh), self.input_mean.device
        chunks = []
        for first in range(0, len(grasps), CHUNK):
            part = grasps.rows(slice(first, first + CHUNK))
            part = Grasps(part.nodes.to(device), part.displacement.to(device))
            inputs = node_inputs(geometry, part, self.normals)
            if first == 0:
                self._check_constant(inputs)
            base = None
            if self.residual:
                base = self.prior(geometry.positions, part, material.poisson)
            found = self.answer(self.correction(inputs, geometry), base)
            chunks.append(found.to(grasps.nodes.device))
        return torch.cat(chunks)

    def _check_constant(self, inputs: Tensor) -> None:
        constant = self.input_std <= 2 * CONSTANT
        if bool(((inputs[0] - self.input_mean).abs().amax(0) > 10 * CONSTANT)[constant].any()):
            raise ValueError("a channel that was constant in training varies in these grasps")
