"""Random grasps of a surface: what the tools hold and where they pull or push it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sextant.contracts import Grasps, TissueMesh
from tasks.tissue.bodies import normals

FEWEST, MOST = 3, 7  # nodes a tool holds
TRIES = 1000


@dataclass(frozen=True)
class GraspLaw:
    """How grasps are drawn.

    A tool holds a random surface node and its nearest surface neighbours, 3 to 7 nodes in all, and
    moves them by one vector: its length is uniform in `reach` (negative pushes in), its angle to
    the patch's mean normal uniform in [0, `tilt`]. Patches never touch fixed nodes or each other.

    Args:
        tools: how many at once.
        reach: metres, (least, most).
        tilt: radians.
        side: "any", or "left" and "right": patches whose middle has x below the median of the
            surface, and more than `gap` above it.
        gap: metres.
    """

    tools: int = 1
    reach: tuple[float, float] = (-0.01, 0.02)
    tilt: float = float(np.pi / 6)
    side: str = "any"
    gap: float = 0.015

    def __post_init__(self) -> None:
        if self.tools < 1:
            raise ValueError(f"tools must be at least 1, got {self.tools}")
        if self.side not in ("any", "left", "right"):
            raise ValueError(f"side must be 'any', 'left' or 'right', got {self.side!r}")

    def law(self) -> dict[str, Any]:
        """What a draw depends on, besides mesh and seed."""
        return {
            key: list(v) if isinstance(v, (tuple, list)) else v for key, v in vars(self).items()
        }


@dataclass
class Grasper:
    """Draws grasps of one mesh."""

    mesh: TissueMesh
    law: GraspLaw
    normals: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.normals = normals(self.mesh)
        self.surface = np.unique(self.mesh.surface)
        self.places = self.mesh.positions[self.surface]
        self.median = float(np.median(self.places[:, 0]))

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Held nodes (n,) and their displacement (n, 3), metres.

        Raises:
            RuntimeError: when no allowed patch is found.
        """
        taken = self.mesh.fixed.copy()
        nodes, moves = [], []
        for _ in range(TRIES):
            patch = self.patch(generator)
            if taken[patch].any() or not self.allowed(patch):
                continue
            taken[patch] = True
            nodes.append(patch)
            moves.append(np.tile(self.pull(patch, generator), (len(patch), 1)))
            if len(nodes) == self.law.tools:
                return np.concatenate(nodes), np.concatenate(moves)
        raise RuntimeError(f"no allowed patch of the surface in {TRIES} draws")

    def patch(self, generator: np.random.Generator) -> np.ndarray:
        """A random surface node and its nearest neighbours among the surface nodes."""
        middle = self.places[generator.integers(len(self.surface))]
        count = generator.integers(FEWEST, MOST + 1)
        far = np.square(self.places - middle).sum(1)
        return self.surface[np.argsort(far, kind="stable")[:count]]

    def allowed(self, patch: np.ndarray) -> bool:
        """Whether a patch lies on the side that is drawn from."""
        beyond = self.mesh.positions[patch, 0].mean() - self.median
        sides = {"any": True, "left": beyond < 0, "right": beyond > self.law.gap}
        return bool(sides[self.law.side])

    def pull(self, patch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The vector (3,) a tool moves a patch by."""
        normal = self.normals[patch].mean(0)
        normal /= np.linalg.norm(normal)
        size = generator.uniform(*self.law.reach)
        angle, turn = generator.uniform(0, self.law.tilt), generator.uniform(0, 2 * np.pi)
        # the axis furthest from the normal makes the frame, whatever the normal is
        helper = np.eye(3)[np.abs(normal).argmin()]
        first = np.cross(normal, helper)
        first /= np.linalg.norm(first)
        across = np.cos(turn) * first + np.sin(turn) * np.cross(normal, first)
        return size * (np.cos(angle) * normal + np.sin(angle) * across)


def packed(drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> Grasps:
    """Grasps of different sizes as one batch."""
    most = max(len(nodes) for nodes, _ in drawn)
    nodes = np.full((len(drawn), most), -1, np.int64)
    moves = np.zeros((len(drawn), most, 3))
    for row, (held, move) in enumerate(drawn):
        nodes[row, : len(held)], moves[row, : len(held)] = held, move
    return Grasps(torch.from_numpy(nodes), torch.from_numpy(moves).float())


def synthetic(mesh: TissueMesh, law: GraspLaw, count: int, seed: int) -> Grasps:
    """Grasps without solutions, a pure function of their arguments."""
    grasper = Grasper(mesh, law)
    generator = np.random.default_rng([seed, 3])
    return packed([grasper.draw(generator) for _ in range(count)])
