"""Bodies to deform: a synthetic liver from a formula, and real anatomy cut into tetrahedra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sextant.contracts import TissueMesh
from sextant.data import locate
from tasks.shared.cache import cached
from tasks.tissue.tetrahedra import boundary, fill, quality

HELD_SHARE = 0.08  # of the surface nodes: a patch as large as a liver's bare area
MESH_VERSION = 1


@dataclass(frozen=True)
class BallLiver:
    """A smooth bent ball the size of a liver, about 20 x 12 x 9 cm and 860 ml: no data needed.

    Args:
        refinements: of scikit-fem's ball; 2, 3 and 4 give 129, 833 and 6,017 nodes.
    """

    refinements: int = 3

    def mesh(self) -> TissueMesh:
        """Made from the formula; the nodes at the far end of y are fixed."""
        import skfem

        ball = skfem.MeshTet.init_ball(self.refinements)
        x, y, z = ball.p
        taper = 0.35 + 0.65 / (1 + np.exp(4 * x))
        positions = np.stack(
            [
                0.10 * x * (1 + 0.15 * y),
                0.07 * y * (0.55 + 0.45 / (1 + np.exp(3 * x))),
                0.055 * z * taper + 0.012 * np.cos(2 * x) - 0.010 * y**2,
            ],
            1,
        )
        return finished(positions, ball.t.T, np.array([0.0, 1.0, 0.0]))

    def law(self) -> dict[str, Any]:
        """What the mesh depends on."""
        return {"body": "ball_liver", "refinements": self.refinements, "version": MESH_VERSION}

    def data(self) -> dict[str, str]:
        """The data sets it is made of: none."""
        return {}


@dataclass(frozen=True)
class Anatomy:
    """A surface of the data set "anatomy", filled with tetrahedra.

    Args:
        surface: file of the data set, without suffix.
        metres: one unit of the file in metres.
        spacing: of the lattice it is filled with, in millimetres.
        held: direction (x, y, z) in whose far end the surface is fixed.
    """

    surface: str
    metres: float
    spacing: float
    held: tuple[float, float, float] = (0.0, 1.0, 0.0)

    def mesh(self) -> TissueMesh:
        """Made once and kept beside the generated data."""
        folder = locate("anatomy")
        law = self.law() | {"source": folder.fingerprint}
        kept = cached(f"tissue-{self.surface}", law, lambda: self._made(folder.path))
        return TissueMesh(**{name: np.array(values) for name, values in kept.arrays.items()})

    def _made(self, folder: Path) -> dict[str, np.ndarray]:
        with np.load(folder / f"{self.surface}.npz") as file:
            points = file["vertices"].astype(np.float64) * self.metres
            nodes, tetrahedra = fill(points, file["surface"], self.spacing / 1000)
        return vars(finished(nodes, tetrahedra, np.asarray(self.held)))

    def law(self) -> dict[str, Any]:
        """What the mesh depends on, the file's content apart."""
        return {
            "body": self.surface,
            "metres": self.metres,
            "spacing": self.spacing,
            "held": list(self.held),
            "version": MESH_VERSION,
        }

    def data(self) -> dict[str, str]:
        """The data sets it is made of, with their fingerprints."""
        return {"anatomy": locate("anatomy").fingerprint}


Body = BallLiver | Anatomy


def finished(positions: np.ndarray, tetrahedra: np.ndarray, held: np.ndarray) -> TissueMesh:
    """A mesh of points (N, 3) and tetrahedra (T, 4) of any orientation, in metres about its centre;
    the `HELD_SHARE` of its surface that lies furthest along `held` (3,) is fixed."""
    used, tetrahedra = np.unique(tetrahedra, return_inverse=True)
    positions = positions[used] - positions[used].mean(0)
    tetrahedra = tetrahedra.reshape(-1, 4).astype(np.int64)
    corners = positions[tetrahedra]
    mirrored = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 0
    tetrahedra[mirrored] = tetrahedra[mirrored][:, [0, 2, 1, 3]]
    surface = boundary(tetrahedra)
    outside = np.unique(surface)
    height = positions @ held
    fixed = np.zeros(len(positions), bool)
    count = max(3, round(HELD_SHARE * len(outside)))
    fixed[outside[np.argsort(-height[outside], kind="stable")[:count]]] = True
    return TissueMesh(positions, tetrahedra, surface, fixed)


def normals(mesh: TissueMesh) -> np.ndarray:
    """Outward unit normals (N, 3) of surface nodes, weighted by area; 0 inside."""
    corners = mesh.positions[mesh.surface]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    found = np.zeros_like(mesh.positions)
    for corner in range(3):
        np.add.at(found, mesh.surface[:, corner], areas)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(length > 0, length, 1.0)


def edges(mesh: TissueMesh) -> np.ndarray:
    """The edges (E, 2) of the tetrahedra, each once, the smaller node first."""
    pairs = mesh.tetrahedra[:, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]].reshape(-1, 2)
    return np.unique(np.sort(pairs, 1), axis=0)


def described(mesh: TissueMesh) -> Mapping[str, float]:
    """Nodes, tetrahedra, volume in millilitres and the quality of the worst
    tetrahedron (1 is regular)."""
    corners = mesh.positions[mesh.tetrahedra]
    volumes = np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    return {
        "nodes": len(mesh.positions),
        "tetrahedra": len(mesh.tetrahedra),
        "surface nodes": len(np.unique(mesh.surface)),
        "fixed nodes": int(mesh.fixed.sum()),
        "millilitres": float(volumes.sum() * 1e6),
        "least quality": float(quality(corners).min()),
    }
