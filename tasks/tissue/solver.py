"""Static equilibrium of a mesh of linear tetrahedra under prescribed displacements.

Newton's method with the energy as its judge: a step is halved until no element is turned inside
out and the energy falls. A load that fails in one go is put on in 2, 4, 8 and 16 steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, files

import numpy as np
from scipy import sparse

from sextant.contracts import TissueMesh
from tasks.tissue.laws import Law

LOAD_STEPS = (1, 2, 4, 8, 16)
MOST_ITERATIONS = 25
TOLERANCE = 1e-8  # of the largest reaction force
HALVINGS = 12


class NotConverged(ArithmeticError):
    """No load ladder led to equilibrium."""


@dataclass(frozen=True)
class Solution:
    """An equilibrium: displacement (N, 3) in metres, Newton iterations in all, load steps."""

    displacement: np.ndarray
    iterations: int
    load_steps: int


class Elements:
    """Linear tetrahedra: gradients of the shape functions, volumes, and where entries go.

    Args:
        mesh: the body.
    """

    def __init__(self, mesh: TissueMesh) -> None:
        self.mesh, self.count = mesh, 3 * len(mesh.positions)
        corners = mesh.positions[mesh.tetrahedra]
        sides = corners[:, 1:] - corners[:, :1]  # rows are edges from the first corner
        self.volumes = np.linalg.det(sides) / 6
        if not (self.volumes > 0).all():
            raise ValueError("tetrahedra must all have positive volume")
        inner = np.linalg.inv(sides).swapaxes(1, 2)  # row a: gradient of corner a + 1
        self.gradients = np.concatenate([-inner.sum(1, keepdims=True), inner], 1)
        # What takes 12 nodal displacements (corner, axis) to 9 entries (axis, derivative) of grad u
        spread = np.einsum("taj,ik->tijak", self.gradients, np.eye(3))
        self.operator = spread.reshape(len(corners), 9, 12)
        dofs = (3 * mesh.tetrahedra[:, :, None] + np.arange(3)).reshape(-1, 12)
        self.dofs = dofs
        rows, columns = np.repeat(dofs, 12, 1).ravel(), np.tile(dofs, (1, 12)).ravel()
        pairs, self.slot = np.unique(rows * self.count + columns, return_inverse=True)
        self.columns = (pairs % self.count).astype(np.int32)
        self.pointers = np.searchsorted(pairs, np.arange(self.count + 1) * self.count)
        self.pointers = self.pointers.astype(np.int32)

    def deformation(self, displacement: np.ndarray) -> np.ndarray:
        """F (T, 3, 3) of a displacement (N, 3)."""
        return np.eye(3) + displacement[self.mesh.tetrahedra].swapaxes(1, 2) @ self.gradients

    def energy(self, displacement: np.ndarray, law: Law) -> float:
        """The elastic energy in joules; infinite with an element turned inside out."""
        return float(self.volumes @ law.energy(self.deformation(displacement)))

    def forces(self, stress: np.ndarray) -> np.ndarray:
        """Inner forces (3N,), newtons, of stresses (T, 3, 3)."""
        local = (self.volumes[:, None, None] * stress) @ self.gradients.swapaxes(1, 2)
        return np.bincount(self.dofs.ravel(), local.swapaxes(1, 2).ravel(), minlength=self.count)

    def stiffness(self, tangent: np.ndarray) -> sparse.csr_matrix:
        """The tangent stiffness (3N, 3N), N/m, of tangents (T, 3, 3, 3, 3)."""
        weighted = tangent.reshape(-1, 9, 9) * self.volumes[:, None, None]
        local = self.operator.swapaxes(1, 2) @ weighted @ self.operator
        entries = np.bincount(self.slot, local.ravel(), minlength=len(self.columns))
        return sparse.csr_matrix((entries, self.columns, self.pointers), (self.count,) * 2)

    def response(self, displacement: np.ndarray, law: Law) -> tuple[np.ndarray, sparse.csr_matrix]:
        """Inner forces and tangent stiffness."""
        stress, tangent = law.response(self.deformation(displacement))
        return self.forces(stress), self.stiffness(tangent)


def solve_symmetric(matrix: sparse.csr_matrix, right: np.ndarray) -> np.ndarray:
    """The solution of a symmetric system, by MKL's Pardiso where that is installed, else by
    SciPy's SuperLU."""
    if (solver := _pardiso()) is None:
        from scipy.sparse.linalg import splu

        return splu(
            matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
        ).solve(right)
    upper = sparse.triu(matrix, format="csr")
    solution = solver.solve(upper, right)
    solver.free_memory()
    return solution


def _pardiso():
    """A Pardiso for symmetric indefinite matrices, or None."""
    if "solver" not in _KEPT:
        try:
            for path in files("mkl") or ():
                # it looks under the interpreter's prefix alone, which a layered environment is not
                if path.name.startswith("libmkl_rt.so"):
                    os.environ.setdefault("PYPARDISO_MKL_RT", str(path.locate().resolve()))
            from pypardiso import PyPardisoSolver

            _KEPT["solver"] = PyPardisoSolver(mtype=-2)
        except (ImportError, PackageNotFoundError):
            _KEPT["solver"] = None
    return _KEPT["solver"]


_KEPT: dict[str, object] = {}


def solve(elements: Elements, law: Law, held: np.ndarray, displacement: np.ndarray) -> Solution:
    """The equilibrium with fixed nodes at 0 and held nodes where the tools bring them.

    Args:
        elements: of the mesh.
        law: of the material.
        held: node numbers (n,), none of them fixed.
        displacement: of the held nodes (n, 3), metres.

    Raises:
        ValueError: for a held node that is fixed.
        NotConverged: when even the longest ladder fails.
    """
    if elements.mesh.fixed[held].any():
        raise ValueError("held nodes must not be fixed ones")
    iterations = 0
    for steps in LOAD_STEPS:
        state = np.zeros_like(elements.mesh.positions)
        for step in range(1, steps + 1):
            found, spent = _equilibrium(elements, law, held, displacement * step / steps, state)
            iterations += spent
            if found is None:
                break
            state = found
        else:
            return Solution(state, iterations, steps)
    raise NotConverged(f"no equilibrium in {LOAD_STEPS[-1]} load steps")


def _equilibrium(
    elements: Elements, law: Law, held: np.ndarray, wanted: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray | None, int]:
    """The equilibrium near `start`, or None, and the iterations spent."""
    moving = ~elements.mesh.fixed
    moving[held] = False
    free = np.repeat(moving, 3)
    change = np.zeros_like(start)
    change[held] = wanted - start[held]
    forces, stiffness = elements.response(start, law)
    # The tools' step goes through the tangent: moving the patch alone would turn elements over.
    right = -(forces + stiffness @ change.ravel())[free]
    change.ravel()[free] = solve_symmetric(stiffness[free][:, free], right)
    state = start + change
    energy = elements.energy(state, law)
    for spent in range(1, MOST_ITERATIONS + 1):
        if not np.isfinite(energy):
            return None, spent
        forces, stiffness = elements.response(state, law)
        if np.abs(forces[free]).max() <= TOLERANCE * np.abs(forces).max():
            return state, spent
        step = np.zeros_like(state)
        step.ravel()[free] = solve_symmetric(stiffness[free][:, free], -forces[free])
        slope = float(forces @ step.ravel())
        for _ in range(HALVINGS):
            tried = elements.energy(state + step, law)
            # near the end, energy differences are rounding
            if tried <= energy + 1e-4 * slope + 1e-12 * abs(energy):
                break
            step, slope = step / 2, slope / 2
        else:
            return None, spent
        state, energy = state + step, tried
    return None, MOST_ITERATIONS


class Compliance:
    """Linear elasticity with everything but the tools solved beforehand.

    The columns of the inverse stiffness that belong to surface nodes are kept, so that a grasp
    costs one small dense solve.

    Args:
        elements: of the mesh.
        law: a linear one.
    """

    def __init__(self, elements: Elements, law: Law) -> None:
        self.elements, self.law = elements, law

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The place of each node among the columns (N,), -1 for none, and the columns
        (3N, 3S), metres a newton."""
        from scipy.sparse.linalg import splu

        mesh = self.elements.mesh
        _, stiffness = self.elements.response(np.zeros_like(mesh.positions), self.law)
        free = np.repeat(~mesh.fixed, 3)
        nodes = np.setdiff1d(np.unique(mesh.surface), np.flatnonzero(mesh.fixed))
        place = np.full(len(mesh.positions), -1)
        place[nodes] = np.arange(len(nodes))
        loads = np.zeros((self.elements.count, 3 * len(nodes)))
        loads[(3 * nodes[:, None] + np.arange(3)).ravel(), np.arange(3 * len(nodes))] = 1.0
        columns = np.zeros_like(loads)
        factors = splu(
            stiffness[free][:, free].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            options={"SymmetricMode": True},
        )
        columns[free] = factors.solve(loads[free])
        return place, columns

    def solve(self, held: np.ndarray, displacement: np.ndarray) -> np.ndarray:
        """The displacement (N, 3) when surface nodes held (n,) move by displacement (n, 3)."""
        place, columns = self.columns
        if (place[held] < 0).any():
            raise ValueError("held nodes must be surface nodes that are not fixed")
        dofs = (3 * held[:, None] + np.arange(3)).ravel()
        pulls = (3 * place[held][:, None] + np.arange(3)).ravel()
        # picking columns first copies a few of them, not the whole matrix
        picked = columns[:, pulls]
        forces = np.linalg.solve(picked[dofs], displacement.ravel())
        return (picked @ forces).reshape(-1, 3)


def inverted(elements: Elements, displacement: np.ndarray) -> np.ndarray:
    """Which elements (T,) a displacement (N, 3) turns inside out."""
    return np.linalg.det(elements.deformation(displacement)) <= 0
