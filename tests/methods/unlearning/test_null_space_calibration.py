"""A basis that grows class by class, and steps that keep off it."""

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.unlearning.null_space_calibration import (
    NullSpaceCalibration,
    class_bases,
    grown,
)
from sextant.methods.unlearning.problem import forget_accuracy
from tests.unlearning_problem import images, part, problem_of, split, trained, weights


def energy_held(basis, covariance):
    return np.trace(basis.T @ covariance @ basis) / np.trace(covariance)


def test_the_first_class_gives_its_leading_singular_vectors():
    rows = np.random.default_rng(0).normal(size=(40, 9)) * 0.6 ** np.arange(9)
    values, vectors = np.linalg.svd(rows)[1:]
    shares = (values**2).cumsum() / (values**2).sum()
    needed = int((shares < 0.9).sum()) + 1
    covariance = torch.from_numpy(rows.T @ rows / 40)
    found = grown(covariance[:, :0], covariance, 0.9).numpy()
    assert found.shape == (9, needed)
    expected = vectors[:needed].T
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-10)


def test_a_further_class_adds_the_fewest_directions_of_what_is_left():
    generator = np.random.default_rng(1)
    first = np.linalg.qr(generator.normal(size=(12, 3)))[0]
    rows = generator.normal(size=(50, 12)) * np.linspace(3, 0.1, 12)
    covariance = rows.T @ rows / 50
    found = grown(torch.from_numpy(first), torch.from_numpy(covariance), 0.85).numpy()
    # The old basis stays inside, and the new columns are singular vectors of the residual rows.
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-12)
    np.testing.assert_allclose(found @ (found.T @ first), first, atol=1e-12)
    residual = rows - rows @ first @ first.T
    added = np.linalg.svd(residual)[2][: found.shape[1] - 3].T
    np.testing.assert_allclose(found @ (found.T @ added), added, atol=1e-9)
    assert energy_held(found, covariance) >= 0.85
    fewer = np.concatenate((first, added[:, :-1]), 1)
    assert energy_held(fewer, covariance) < 0.85
    assert grown(torch.from_numpy(found), torch.from_numpy(covariance), 0.85).shape == found.shape


def test_a_basis_of_everything_stops_every_weight_and_one_of_nothing_none():
    model, data = trained(), images(20)
    forget, _ = split(data)
    settings = {"epochs": 2, "rate": 1e-2, "batch_size": 64}
    stuck = NullSpaceCalibration(energy=1.0, rise=0.0, **settings)
    found = stuck(model, problem_of(stuck, forget=forget), Streams(0))
    kept = found.report["kept"]
    assert set(kept) == {"0", "3", "8"}
    assert kept["0"] == 0
    assert found.report["dimensions"] == {"0": 9, "3": 72, "8": 48}
    assert "8.bias" in found.report["frozen"]
    assert not {"0.weight", "3.weight", "8.weight"} & set(found.report["frozen"])
    for name, value in weights(found.model).items():
        before = model.state_dict()[name]
        if name not in ("0.weight", "3.weight", "8.weight"):
            assert torch.equal(value, before), name
    torch.testing.assert_close(found.model[0].weight, model[0].weight, rtol=0, atol=1e-6)
    free = NullSpaceCalibration(energy=0.0, rise=0.0, **settings)
    loose = free(model, problem_of(free, forget=forget), Streams(0))
    assert loose.report["kept"] == {"0": 9.0, "3": 72.0, "8": 48.0}
    assert (loose.model[0].weight - model[0].weight).abs().max() > 1e-4


def test_the_kept_outputs_stay_where_the_basis_is_whole_and_the_rest_forgets():
    """Few retained images leave room off their span: outputs on them stay while others move."""
    model, data = trained().double(), images(20)
    forget, retain = split(data)
    forget, retain = (type(one)(one.inputs.double(), one.labels) for one in (forget, retain))
    few = part(retain, torch.tensor([0, 20, 40]))
    method = NullSpaceCalibration(energy=1.0, rise=0.0, rate=0.5, epochs=40, stop_at=0.05)
    found = method(model, problem_of(method, forget=forget, retain=few), Streams(0))
    drift = (found.model(few.inputs) - model(few.inputs)).abs().max().item()
    assert drift < 1e-8
    assert (found.model(forget.inputs) - model(forget.inputs)).abs().max() > 0.1
    assert forget_accuracy(found.model, forget) < 1.0


def test_refusals_of_calibration():
    with pytest.raises(ValueError, match="energy"):
        NullSpaceCalibration(energy=1.2)
    with pytest.raises(ValueError, match="optimizer"):
        NullSpaceCalibration(optimizer="adam")
    with pytest.raises(ValueError, match="none of 3"):
        class_bases(trained(), part(images(2), torch.arange(4)), (0, 3), 0.9, 0.0)
