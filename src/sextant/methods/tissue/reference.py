"""Simulators that learn nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from sextant.contracts import Grasps, Material, Parent, Streams, TissueMesh
from sextant.methods.tissue.prior import KelvinletPrior


class NoMotion:
    """Answers that nothing moves."""

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare."""

    def simulate(self, mesh: TissueMesh, grasps: Grasps, material: Material) -> Tensor:
        """Zeros (B, N, 3)."""
        return torch.zeros(len(grasps), len(mesh.positions), 3)


class KelvinletAlone:
    """Answers with the prior.

    Args:
        prior: the Kelvinlets.
    """

    def __init__(self, prior: KelvinletPrior) -> None:
        self.prior = prior

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Nothing to prepare."""

    def simulate(self, mesh: TissueMesh, grasps: Grasps, material: Material) -> Tensor:
        """The Kelvinlet displacement (B, N, 3), metres."""
        positions = torch.from_numpy(mesh.positions)
        return self.prior(positions, grasps, material.poisson)


class FiniteElements:
    """Answers with a finite element solve on the task's own solver.

    Args:
        law: "linear", solved from a compliance computed beforehand, or "task": the task's own law,
            which is where its answers come from.
    """

    def __init__(self, law: Literal["linear", "task"]) -> None:
        if law not in ("linear", "task"):
            raise ValueError(f"law must be 'linear' or 'task', got {law!r}")
        self.law = law

    def prepare(self, streams: Streams, parents: Mapping[str, Parent], data: Any) -> None:
        """Takes the solver of the data module."""
        self.solver = data.solver

    def simulate(self, mesh: TissueMesh, grasps: Grasps, material: Material) -> Tensor:
        """The displacement (B, N, 3), metres."""
        solve = self.solver(mesh, material, None if self.law == "task" else self.law)
        return torch.stack([solve(*row) for row in zip(*vars(grasps).values(), strict=True)])
