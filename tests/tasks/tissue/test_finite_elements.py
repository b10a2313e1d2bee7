"""The solver against exact fields, scikit-fem's assembly and finite differences."""

import dataclasses

import numpy as np
import pytest
import skfem
from skfem.helpers import ddot, eye, sym_grad, trace

from sextant.contracts import Material, TissueMesh
from tasks.tissue import solver
from tasks.tissue.bodies import BallLiver, finished
from tasks.tissue.laws import Linear, lame, law_of
from tasks.tissue.solver import Compliance, Elements

MATERIAL = Material(young=2100.0, poisson=0.45)
LAWS = ["linear", "neo_hookean", "mooney_rivlin"]
BENT = np.array([[0.05, 0.02, -0.03], [0.01, -0.04, 0.02], [0.0, 0.03, 0.06]])


@pytest.fixture(scope="module")
def mesh():
    return BallLiver(2).mesh()


@pytest.fixture(scope="module")
def elements(mesh):
    return Elements(mesh)


def cube(cells):
    grid = skfem.MeshTet.init_tensor(*(np.linspace(0, 1, cells + 1),) * 3)
    made = finished(grid.p.T.copy(), grid.t.T.copy(), np.array([0.0, 1.0, 0.0]))
    return dataclasses.replace(
        made, positions=made.positions + 0.5, fixed=np.zeros_like(made.fixed)
    )


def wavy(mesh, seed=0):
    return 0.002 * np.random.default_rng(seed).standard_normal(mesh.positions.shape)


@pytest.mark.parametrize("name", LAWS)
def test_a_uniform_strain_on_the_boundary_goes_right_through(mesh, name):
    free = dataclasses.replace(mesh, fixed=np.zeros_like(mesh.fixed))
    outside = np.unique(mesh.surface)
    exact = mesh.positions @ BENT.T
    found = solver.solve(Elements(free), law_of(name, MATERIAL), outside, exact[outside])
    np.testing.assert_allclose(found.displacement, exact, atol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_turning_a_body_costs_energy_only_in_the_linear_law(mesh, elements, name):
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    turn *= np.linalg.det(turn)
    moved = mesh.positions @ turn.T + 0.3 - mesh.positions
    law = law_of(name, MATERIAL)
    stress, _ = law.response(elements.deformation(moved))
    assert (np.abs(stress).max() < 1e-8) == (name != "linear")
    assert (abs(elements.energy(moved, law)) < 1e-10) == (name != "linear")


@pytest.mark.parametrize("name", LAWS)
def test_forces_are_the_energys_slope_and_the_tangent_is_the_forces_slope(elements, name):
    law, state = law_of(name, MATERIAL), wavy(elements.mesh)
    forces, stiffness = elements.response(state, law)
    way, h = wavy(elements.mesh, seed=1), 1e-5
    slope = (elements.energy(state + h * way, law) - elements.energy(state - h * way, law)) / (
        2 * h
    )
    assert slope == pytest.approx(float(forces @ way.ravel()), rel=1e-6)
    after, before = (elements.response(state + s * h * way, law)[0] for s in (1, -1))
    difference = (after - before) / (2 * h)
    product = stiffness @ way.ravel()
    assert np.linalg.norm(difference - product) < 1e-6 * np.linalg.norm(product)
    assert abs(stiffness - stiffness.T).max() < 1e-9 * abs(stiffness).max()


@pytest.mark.parametrize("name", LAWS)
def test_all_laws_are_hookes_law_for_small_strains(elements, name):
    _, stiffness = elements.response(
        np.zeros((len(elements.mesh.positions), 3)), law_of(name, MATERIAL)
    )
    _, linear = elements.response(
        np.zeros((len(elements.mesh.positions), 3)), law_of("linear", MATERIAL)
    )
    assert abs(stiffness - linear).max() < 1e-9 * abs(linear).max()


def test_scikit_fem_assembles_the_same_stiffness(mesh, elements):
    basis = skfem.Basis(
        skfem.MeshTet(mesh.positions.T.copy(), mesh.tetrahedra.T.copy()),
        skfem.ElementVector(skfem.ElementTetP1()),
    )
    shear, first = lame(MATERIAL)

    @skfem.BilinearForm
    def elasticity(u, v, _):
        strain = sym_grad(u)
        return ddot(2 * shear * strain + first * eye(trace(strain), 3), sym_grad(v))

    reference = elasticity.assemble(basis)
    _, ours = elements.response(np.zeros_like(mesh.positions), Linear(shear, first))
    places = basis.nodal_dofs.T.ravel()  # scikit-fem's number of (node, axis)
    assert abs(ours - reference[places][:, places]).max() < 1e-10 * abs(ours).max()


def test_a_manufactured_field_is_found_and_refinement_squares_the_error():
    """u = 0.1 (sin pi x sin pi y, 0, 0), its body force put on by the nodes' volumes."""
    shear, first = lame(Material(1.0, 0.3))

    def exact(x):
        waves = np.sin(np.pi * x)
        return 0.1 * np.stack([waves[:, 0] * waves[:, 1], 0 * x[:, 0], 0 * x[:, 0]], 1)

    def force(x):
        slopes = np.cos(np.pi * x)
        u = exact(x)
        mixed = 0.1 * slopes[:, 0] * slopes[:, 1]
        gradient = np.pi**2 * np.stack([-u[:, 0], mixed, 0 * mixed], 1)  # of div u
        return -(shear * -2 * np.pi**2 * u + (shear + first) * gradient)

    errors = []
    for cells in (2, 4, 8):
        body = cube(cells)
        elements = Elements(body)
        _, stiffness = elements.response(np.zeros_like(body.positions), Linear(shear, first))
        weights = np.bincount(
            body.tetrahedra.ravel(), np.repeat(elements.volumes / 4, 4), len(body.positions)
        )
        load = (weights[:, None] * force(body.positions)).ravel()
        outside = np.unique(body.surface)
        free = np.ones(len(body.positions), bool)
        free[outside] = False
        free = np.repeat(free, 3)
        u = exact(body.positions).ravel()
        right = (load - stiffness[:, ~free] @ u[~free])[free]
        found = u.copy()
        found[free] = solver.solve_symmetric(stiffness[free][:, free], right)
        errors.append(np.sqrt(np.mean((found - u) ** 2)))
    assert errors[2] < 2e-3
    assert np.log2(errors[1] / errors[2]) > 1.7


def grasp(mesh, size):
    outside = np.setdiff1d(np.unique(mesh.surface), np.flatnonzero(mesh.fixed))
    far = outside[np.argsort(mesh.positions[outside, 1])[:4]]
    return far, np.tile([0.0, -size, 0.3 * size], (4, 1))


def test_the_compliance_shortcut_is_the_direct_linear_solve(mesh, elements):
    law, (held, moves) = law_of("linear", MATERIAL), grasp(mesh, 0.01)
    direct = solver.solve(elements, law, held, moves).displacement
    np.testing.assert_allclose(Compliance(elements, law).solve(held, moves), direct, atol=1e-12)


@pytest.mark.parametrize("name", ["neo_hookean", "mooney_rivlin"])
def test_an_equilibrium_balances_and_keeps_its_word(mesh, elements, name):
    law, (held, moves) = law_of(name, MATERIAL), grasp(mesh, 0.02)
    found = solver.solve(elements, law, held, moves)
    forces, _ = elements.response(found.displacement, law)
    reactions = forces.reshape(-1, 3)
    touched = mesh.fixed.copy()
    touched[held] = True
    assert np.abs(reactions[~touched]).max() < 1e-8 * np.abs(reactions).max()
    assert np.abs(reactions[touched].sum(0)).max() < 1e-6 * np.abs(reactions).max()
    assert (found.displacement[mesh.fixed] == 0).all()
    np.testing.assert_allclose(found.displacement[held], moves, atol=1e-15)
    assert not solver.inverted(elements, found.displacement).any()
    disturbed = found.displacement.copy()
    disturbed[~touched] += wavy(mesh)[~touched]
    assert elements.energy(disturbed, law) > elements.energy(found.displacement, law)


def test_the_nonlinear_answer_nears_the_linear_one_as_the_pull_shrinks(mesh, elements):
    gaps = []
    for size in (0.02, 0.01, 0.005):
        held, moves = grasp(mesh, size)
        linear, bent = (
            solver.solve(elements, law_of(name, MATERIAL), held, moves).displacement
            for name in ("linear", "neo_hookean")
        )
        gaps.append(np.linalg.norm(linear - bent) / np.linalg.norm(bent))
    assert gaps[0] > 1.6 * gaps[1] > 2.5 * gaps[2]


def test_both_sparse_solvers_agree(mesh, elements, monkeypatch):
    law, (held, moves) = law_of("neo_hookean", MATERIAL), grasp(mesh, 0.01)
    first = solver.solve(elements, law, held, moves).displacement
    monkeypatch.setitem(solver._KEPT, "solver", None)
    np.testing.assert_allclose(
        solver.solve(elements, law, held, moves).displacement, first, atol=1e-9
    )


def test_a_hopeless_load_is_reported_and_a_fixed_node_refused(mesh, elements):
    law = law_of("neo_hookean", MATERIAL)
    held, moves = grasp(mesh, 0.01)
    through = moves.copy()
    through[0] = mesh.positions[held[1]] - mesh.positions[held[0]] + 0.05
    through[1] = mesh.positions[held[0]] - mesh.positions[held[1]] - 0.05
    with pytest.raises(solver.NotConverged, match="no equilibrium in 16 load steps"):
        solver.solve(elements, law, held, 10 * through)
    with pytest.raises(ValueError, match="held nodes must not be fixed"):
        solver.solve(elements, law, np.flatnonzero(mesh.fixed)[:1], moves[:1])


def test_inputs_out_of_range_are_named():
    with pytest.raises(ValueError, match="poisson must lie in"):
        lame(Material(1.0, 0.5))
    with pytest.raises(ValueError, match="law must be linear"):
        law_of("rubber", MATERIAL)
    flat = TissueMesh(
        np.zeros((4, 3)), np.arange(4)[None], np.zeros((0, 3), int), np.zeros(4, bool)
    )
    with pytest.raises(ValueError, match="tetrahedra must all have positive volume"):
        Elements(flat)
