"""Times the Kelvinlets and the finite elements against what a user would write or call instead.

Run `python benchmarks/tissue.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import skfem
import torch
from showing import Shown, show, table_of
from skfem.helpers import ddot, eye, grad, transpose

from sextant.contracts import Grasps, Material, TissueMesh
from sextant.methods.tissue.grasping import superpose
from sextant.methods.tissue.kelvinlets import coefficients, normalised_kernel
from sextant.methods.tissue.prior import KelvinletPrior
from tasks.tissue.bodies import BallLiver
from tasks.tissue.grasps import GraspLaw, synthetic
from tasks.tissue.laws import lame
from tasks.tissue.simulations import Workplace

EPILOG = """
One thread, core time, contestants take turns, medians. "ratio" is a contestant's time divided by
ours: above 1, ours is faster. Answers are compared first, and the run ends where they differ.
"""
RADIUS, MATERIAL = 0.03, Material(2100.0, 0.45)


def medians(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median core seconds of each, after a call that is not timed."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, call in contestants.items():
            start = process_time()
            call()
            if turn:
                spent[name].append(process_time() - start)
    return {name: median(values) for name, values in spent.items()}


def compared(title: str, contestants: dict[str, Callable[[], np.ndarray]], repeats: int) -> Shown:
    """A table of contestants, the first of which is ours."""
    answers = [np.asarray(call()) for call in contestants.values()]
    for name, answer in zip(contestants, answers, strict=True):
        gap = np.abs(answer - answers[0]).max() / np.abs(answers[0]).max()
        if gap > 1e-5:
            raise SystemExit(f"{title}: {name} differs from ours by {gap:.1e}")
    table = table_of(title, "contestant", ["ms", "ratio"])
    times = medians(contestants, repeats)
    ours = next(iter(times.values()))
    for name, seconds in times.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{seconds / ours:.1f}")
    return table


def kelvinlets(nodes: int, tools: int, repeats: int) -> Shown:
    """A field of single-scale grabs on many nodes."""
    generator = torch.Generator().manual_seed(0)
    points = 0.1 * torch.randn(nodes, 3, generator=generator, dtype=torch.float64)
    strengths = torch.randn(tools, 3, generator=generator, dtype=torch.float64)
    centres = points[:tools]
    a, b = (float(value) for value in coefficients(MATERIAL.poisson))
    scale = 2 * RADIUS / (3 * a - 2 * b)
    places, middles, pulls = points.numpy(), centres.numpy(), strengths.numpy()

    def loop() -> np.ndarray:
        found = np.zeros_like(places)
        for middle, pull in zip(middles, pulls, strict=True):
            r = places - middle
            far = np.sqrt((r**2).sum(1, keepdims=True) + RADIUS**2)
            along = (a - b) / far + a * RADIUS**2 / (2 * far**3)
            found += scale * (along * pull + b / far**3 * (r @ pull)[:, None] * r)
        return found

    def blocks() -> np.ndarray:
        kernels = normalised_kernel(points[:, None] - centres, RADIUS, MATERIAL.poisson)
        return torch.einsum("nmij,mj->ni", kernels, strengths).numpy()

    contestants = {
        "ours": lambda: superpose(points, centres, strengths, RADIUS, MATERIAL.poisson).numpy(),
        "numpy, a loop over the tools": loop,
        "torch, all 3 x 3 kernels at once": blocks,
    }
    return compared(f"Kelvinlets at {nodes:,} nodes x {tools} tools", contestants, repeats)


def grasp_of(mesh: TissueMesh) -> tuple[np.ndarray, np.ndarray, Grasps]:
    grasps = synthetic(mesh, GraspLaw(), 1, 3)
    real = grasps.held[0]
    return grasps.nodes[0][real].numpy(), grasps.displacement[0][real].double().numpy(), grasps


def reference_solver(mesh: TissueMesh) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Neo-Hookean Newton written with scikit-fem's forms and its own solver, as a user would."""
    basis = skfem.Basis(
        skfem.MeshTet(mesh.positions.T.copy(), mesh.tetrahedra.T.copy()),
        skfem.ElementVector(skfem.ElementTetP1()),
    )
    shear, first = lame(MATERIAL)

    def state(w):
        gradient = grad(w["u"]) + eye(np.ones_like(w.x[0]), 3)
        inverse = np.moveaxis(
            np.linalg.inv(np.moveaxis(gradient, (0, 1), (-2, -1))), (-2, -1), (0, 1)
        )
        determinant = np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)))
        return gradient, transpose(inverse), np.log(determinant)

    @skfem.BilinearForm
    def tangent(u, v, w):
        _, inverse, log = state(w)
        du = grad(u)
        turned = np.einsum("ij...,kj...,kl...->il...", inverse, du, inverse)
        change = shear * du + (shear - first * log) * turned + first * ddot(inverse, du) * inverse
        return ddot(change, grad(v))

    @skfem.LinearForm
    def force(v, w):
        gradient, inverse, log = state(w)
        return ddot(shear * (gradient - inverse) + first * log * inverse, grad(v))

    places = basis.nodal_dofs.T  # (N, 3)

    def solve(held: np.ndarray, moves: np.ndarray) -> np.ndarray:
        u = basis.zeros()
        fixed = np.concatenate([places[mesh.fixed].ravel(), places[held].ravel()])
        step = basis.zeros()
        step[places[held].ravel()] = moves.ravel()
        for _ in range(12):
            field = basis.interpolate(u)
            stiffness, inner = tangent.assemble(basis, u=field), force.assemble(basis, u=field)
            change = skfem.solve(*skfem.condense(stiffness, -inner, x=step, D=fixed))
            u, step = u + change, basis.zeros()
            if np.abs(change).max() < 1e-10:
                break
        return u[places]

    return solve


def finite_elements(refinements: int, repeats: int) -> Iterator[Shown]:
    """A Neo-Hookean solve against scikit-fem's forms, and the prior against the solve."""
    mesh = BallLiver(refinements).mesh()
    held, moves, grasps = grasp_of(mesh)
    ours, linear = (Workplace(mesh, law, MATERIAL) for law in ("neo_hookean", "linear"))
    naive = reference_solver(mesh)
    contestants = {
        "ours": lambda: ours.solve(held, moves)[0],
        "scikit-fem, forms and SciPy's solver": lambda: naive(held, moves),
    }
    nodes = len(mesh.positions)
    yield compared(f"One Neo-Hookean solve, {nodes:,} nodes", contestants, repeats)
    prior, positions = KelvinletPrior(RADIUS), torch.from_numpy(mesh.positions)
    linear.solve(held, moves)
    times = medians(
        {
            "Kelvinlets": lambda: prior(positions, grasps, MATERIAL.poisson),
            "linear, compliance known": lambda: linear.solve(held, moves),
            "Neo-Hookean": lambda: ours.solve(held, moves),
        },
        repeats,
    )
    table = table_of(f"One frame, {nodes:,} nodes", "simulator", ["ms", "of Kelvinlets"])
    for name, seconds in times.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{seconds / times['Kelvinlets']:.1f}")
    yield table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=100_000, help="of the Kelvinlet field")
    parser.add_argument("--tools", type=int, default=8)
    parser.add_argument("--refinements", type=int, default=3, help="of the ball: 3 is 833 nodes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path, help="write the tables here, as markdown")
    given = parser.parse_args()
    torch.set_num_threads(1)

    def tables() -> Iterator[Shown]:
        yield kelvinlets(given.nodes, given.tools, given.repeats)
        yield from finite_elements(given.refinements, given.repeats)

    show(tables(), "# Soft tissue\n", given.save)


if __name__ == "__main__":
    main()
