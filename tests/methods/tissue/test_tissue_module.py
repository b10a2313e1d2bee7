"""Training with and without the prior, on a toy data module whose answers are known."""

import copy
from types import SimpleNamespace

import pytest
import torch

from sextant.contracts import Grasps, Material, Simulator, Streams
from sextant.methods.tissue.module import TissueModule
from sextant.methods.tissue.networks import DeepONet, PointNet
from sextant.methods.tissue.prior import KelvinletPrior
from sextant.methods.tissue.reference import FiniteElements, KelvinletAlone, NoMotion
from tests.methods.tissue.test_networks import GRASPS, mesh

MESH, MATERIAL = mesh(), Material(2100.0, 0.45)
PRIOR = KelvinletPrior(0.03)


def draw(count, seed):
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.stack([torch.randperm(8, generator=generator)[:3] for _ in range(count)])
    nodes[::2, 2] = -1
    moves = 0.01 * torch.randn(count, 3, 3, generator=generator) * (nodes >= 0)[..., None]
    return Grasps(nodes, moves)


class Data:
    """Half the prior's displacement is the truth."""

    mesh, material = MESH, MATERIAL

    def __init__(self):
        grasps = draw(40, 0)
        truth = 0.5 * PRIOR(torch.from_numpy(MESH.positions), grasps, 0.45)
        self.train = SimpleNamespace(grasps=grasps, displacement=truth)

    def synthetic_grasps(self, count, seed):
        return draw(count, seed)

    def solver(self, mesh, material, law):
        return lambda nodes, displacement: torch.full((8, 3), 1.0 if law is None else 2.0)


DATA = Data()


def student(**settings):
    torch.manual_seed(0)
    network = PointNet(8, (16, 32), (16, 8), transform=False)
    made = TissueModule(network, PRIOR, 1e-2, 50, pool=30, **settings)
    made.prepare(Streams(0), {}, DATA)
    return made


def trained(steps=50, **settings):
    made = student(**settings)
    optimizer = made.configure_optimizers()["optimizer"]
    for step in range(steps):
        rows = torch.arange(8) + 4 * (step % 8)
        batch = DATA.train.grasps.rows(rows), DATA.train.displacement[rows]
        loss, _ = made.loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made


@pytest.mark.parametrize("space", ["physical", "standardised"])
def test_targets_and_answers_are_inverse(space):
    for residual in (False, True):
        made = student(residual=residual, residual_space=space)
        u, base = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
        torch.testing.assert_close(made.answer(made.target(u, base), base), u, rtol=1e-4, atol=1e-5)


def test_a_physical_residual_student_starts_as_its_prior():
    answer = student(residual=True, residual_space="physical").simulate(MESH, GRASPS, MATERIAL)
    alone = KelvinletAlone(PRIOR).simulate(MESH, GRASPS, MATERIAL)
    torch.testing.assert_close(answer, alone, rtol=1e-5, atol=1e-8)


def test_a_standardised_residual_student_starts_as_its_prior_rescaled():
    """Here the truth is half the prior, so rescaling alone is right."""
    answer = student(residual=True).simulate(MESH, DATA.train.grasps, MATERIAL)
    torch.testing.assert_close(answer, DATA.train.displacement, rtol=1e-3, atol=1e-6)


def test_without_weight_the_regulariser_leaves_every_bit_as_it_was():
    plain, weightless = trained(nodes=6), trained(nodes=6, regularisation=0.0)
    held = trained(nodes=6, regularisation=0.5)
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(weight, weightless.network.state_dict()[name])
    first, second = plain.network.first[0].weight, held.network.first[0].weight
    assert not torch.equal(first, second)


def test_the_labelled_part_sees_the_same_nodes_with_and_without_a_regulariser():
    plain, held = student(nodes=6), student(nodes=6, regularisation=0.5)
    batch = DATA.train.grasps.rows(slice(0, 8)), DATA.train.displacement[:8]
    assert torch.equal(plain.loss(batch, 3)[1], held.loss(batch, 3)[1])


def test_a_strong_regulariser_pulls_towards_the_prior():
    alone = KelvinletAlone(PRIOR).simulate(MESH, DATA.train.grasps, MATERIAL)

    def gap(made):
        return float((made.simulate(MESH, DATA.train.grasps, MATERIAL) - alone).norm())

    assert gap(trained(300, regularisation=10.0)) < 0.8 * gap(trained(300))


def test_training_brings_the_error_down():
    truth = DATA.train.displacement

    def error(made):
        return float((made.simulate(MESH, DATA.train.grasps, MATERIAL) - truth).norm())

    before, after = error(student()), error(trained())
    assert after < 0.7 * before
    assert error(trained(residual=True)) < 0.2 * after


def test_the_standardisation_is_that_of_the_training_grasps():
    made = student()
    truth = DATA.train.displacement.flatten(0, 1)
    torch.testing.assert_close(made.output_mean, truth.mean(0), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        made.output_std, truth.std(0, correction=0) + 1e-6, rtol=1e-4, atol=1e-7
    )


def test_a_channel_that_was_constant_must_stay_so():
    made = student()
    made.normals = True
    with pytest.raises(ValueError, match="constant in training varies"):
        made.simulate(MESH, GRASPS, MATERIAL)


def test_weights_go_to_disk_and_back():
    made = trained(residual=True)
    again = student(residual=True)
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    answers = [each.simulate(MESH, GRASPS, MATERIAL) for each in (made, again)]
    assert torch.equal(*answers)


def test_students_that_learn_nothing_answer_too():
    for each in (NoMotion(), KelvinletAlone(PRIOR), FiniteElements("linear")):
        each.prepare(Streams(0), {}, DATA)
        assert isinstance(each, Simulator)
        assert each.simulate(MESH, GRASPS, MATERIAL).shape == (2, 8, 3)
    assert (each.simulate(MESH, GRASPS, MATERIAL) == 2).all()
    own = FiniteElements("task")
    own.prepare(Streams(0), {}, DATA)
    assert (own.simulate(MESH, GRASPS, MATERIAL) == 1).all()


def test_settings_out_of_range_are_named():
    network = DeepONet(8, 4)
    for setting, sentence in (
        ({"residual_space": "log"}, "residual_space must be"),
        ({"regularisation": -1.0}, "regularisation must be at least 0"),
        ({"pool": 0}, "pool must be at least 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            TissueModule(network, PRIOR, 1e-3, 10, **setting)
    with pytest.raises(ValueError, match="law must be"):
        FiniteElements("cubic")
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        KelvinletPrior(ridge=-1.0)
