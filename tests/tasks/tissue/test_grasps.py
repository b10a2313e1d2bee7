"""Meshes, grasps and the sets of solved grasps."""

import numpy as np
import pytest
import torch

from sextant.contracts import Material, Streams
from tasks.tissue import bodies, simulations, solver
from tasks.tissue.bodies import BallLiver
from tasks.tissue.data import TissueData, liver
from tasks.tissue.grasps import Grasper, GraspLaw, synthetic
from tasks.tissue.simulations import SolveLaw, solved
from tasks.tissue.tetrahedra import fill, quality

MESH = BallLiver(2).mesh()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_the_synthetic_liver_is_a_closed_outward_body():
    corners = MESH.positions[MESH.surface]
    inside = np.einsum("ti,ti->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    tets = MESH.positions[MESH.tetrahedra]
    volumes = np.linalg.det(tets[:, 1:] - tets[:, :1]) / 6
    assert (volumes > 0).all()
    assert volumes.sum() == pytest.approx(inside)
    assert 3 <= MESH.fixed.sum() < 20
    outward = bodies.normals(MESH)
    outer = np.unique(MESH.surface)
    np.testing.assert_allclose(np.linalg.norm(outward[outer], axis=1), 1.0)
    assert (outward[outer] * MESH.positions[outer]).sum(1).mean() > 0


def test_a_surface_is_filled_with_good_tetrahedra():
    outer, index = np.unique(BallLiver(3).mesh().surface, return_inverse=True)
    body = BallLiver(3).mesh()
    nodes, tetrahedra = fill(body.positions[outer], index.reshape(-1, 3), 0.016)
    made = bodies.finished(nodes, tetrahedra, np.array([0.0, 1.0, 0.0]))
    assert quality(made.positions[made.tetrahedra]).min() > 0.19
    wanted, found = (bodies.described(part)["millilitres"] for part in (body, made))
    assert found == pytest.approx(wanted, rel=0.05)
    # its surface lies on the given one
    gaps = np.linalg.norm(nodes[np.unique(made.surface)][:, None] - body.positions[outer], axis=2)
    assert np.quantile(gaps.min(1), 0.9) < 0.012


def test_grasps_are_what_their_law_says():
    law = GraspLaw(tools=2, tilt=0.5)
    grasper = Grasper(MESH, law)
    for number in range(40):
        nodes, moves = grasper.draw(np.random.default_rng(number))
        assert len(set(nodes)) == len(nodes)
        assert not MESH.fixed[nodes].any()
        assert np.isin(nodes, MESH.surface).all()
        tools = np.unique(moves, axis=0)
        assert len(tools) == 2
        for pull in tools:
            patch = nodes[(moves == pull).all(1)]
            assert 3 <= len(patch) <= 7
            normal = grasper.normals[patch].mean(0)
            cosine = abs(pull @ normal) / np.linalg.norm(pull) / np.linalg.norm(normal)
            assert cosine >= np.cos(0.5) - 1e-9
            assert np.linalg.norm(pull) <= 0.02


def test_sides_do_not_meet():
    middle = Grasper(MESH, GraspLaw()).median
    for side, sign in (("left", -1), ("right", 1)):
        grasper = Grasper(MESH, GraspLaw(side=side, gap=0.01))
        for number in range(20):
            nodes, _ = grasper.draw(np.random.default_rng(number))
            assert sign * (MESH.positions[nodes, 0].mean() - middle) > (0.01 if sign > 0 else 0)
    with pytest.raises(ValueError, match="side must be 'any'"):
        GraspLaw(side="up")


def test_a_set_is_the_same_however_it_was_made(monkeypatch):
    law = SolveLaw(BallLiver(2), law="neo_hookean")
    whole = solved(law, 30, workers=1)
    made = []
    original = simulations._solve_block
    monkeypatch.setattr(simulations, "_solve_block", lambda *a: made.append(a) or original(*a))
    again = solved(law, 30, workers=1)
    assert not made  # read from disk
    assert again.content == whole.content
    sample = simulations.Maker(law).sample(27)
    torch.testing.assert_close(torch.from_numpy(sample["displacement"]), whole.displacement[27])
    assert whole.displacement.shape == (30, len(MESH.positions), 3)
    assert (whole.displacement[:, MESH.fixed] == 0).all()
    other = solved(SolveLaw(BallLiver(2), part="test"), 5, workers=1)
    assert not torch.equal(other.grasps.nodes, whole.grasps.nodes[:5])


def test_failed_solves_are_counted_and_drawn_anew(monkeypatch):
    workplace = simulations.Maker(SolveLaw(BallLiver(2), law="linear"))
    right, calls = workplace.solve, []

    def twice_wrong(held, moves):
        calls.append(held)
        if len(calls) < 3:
            raise solver.NotConverged
        return right(held, moves)

    monkeypatch.setattr(workplace, "solve", twice_wrong)
    assert workplace.sample(0)["failures"] == 2
    assert not np.array_equal(calls[0], calls[2])


def test_the_data_module_keeps_its_parts_apart():
    data = TissueData(4, 3, nodes=129, law="linear", tools=1, train=20, test=5)
    data.prepare(Streams(0), {})
    assert (len(data.train.grasps), len(data.validation.grasps)) == (18, 2)
    grasps, displacement = data.draw_batch(2)
    assert len(grasps) == 4
    assert displacement.shape == (4, len(MESH.positions), 3)
    rows = torch.arange(4)[:, None].expand_as(grasps.nodes)[grasps.held]
    moved = displacement[rows, grasps.nodes[grasps.held]]
    torch.testing.assert_close(moved, grasps.displacement[grasps.held], rtol=0, atol=1e-8)
    again = TissueData(4, 3, nodes=129, law="linear", tools=1, train=20, test=5)
    again.prepare(Streams(0), {})
    assert torch.equal(again.draw_batch(2)[1], displacement)
    assert set(data.fingerprints()) == {"tissue train", "tissue test"}


def test_synthetic_grasps_follow_their_seed():
    first, again, other = (synthetic(MESH, GraspLaw(), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(first.nodes, again.nodes)
    assert not torch.equal(first.displacement, other.displacement)


def test_unknown_bodies_are_named():
    with pytest.raises(ValueError, match="nodes must be one of 129, 800, 2200, 10400"):
        liver(900)
    with pytest.raises(ValueError, match="young must be positive"):
        simulations.Maker(SolveLaw(BallLiver(1), material=Material(0.0, 0.3)))
