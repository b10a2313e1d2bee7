"""Unlearning off the retained space: subtraction, the share of singular values, single steps."""

import numpy as np
import pytest
import torch
from torch.nn.functional import unfold

from sextant.contracts import Streams
from sextant.methods.unlearning.covariance import feature_covariances
from sextant.methods.unlearning.library import unlearn
from sextant.methods.unlearning.problem import Examples, forget_accuracy
from sextant.methods.unlearning.projected_gradient import (
    ProjectedGradientUnlearning,
    leading_directions,
    retained_features,
    unlearning_loss,
)
from tests.unlearning_problem import images, part, problem_of, same, split, trained, weights


def test_what_is_left_after_subtraction_is_the_covariance_of_the_rest():
    model = trained()
    forget, retain = split(images(12))
    found = retained_features(model, forget.joined(retain), forget)
    direct = feature_covariances(model, [retain.inputs])
    assert set(found) == {"0", "3", "8"}
    for name, matrix in found.items():
        wide = direct[name].matrix[: len(matrix), : len(matrix)]
        torch.testing.assert_close(matrix, wide, rtol=0, atol=1e-12 * wide.abs().max().item())
    # And in full for a convolution of stride 2: its unfolded patches.
    with torch.no_grad():
        patches = unfold(model[:3](retain.inputs).double(), 3, padding=1, stride=2)
    rows = patches.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found["3"], rows.T @ rows / len(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("held", [0.3, 0.6, 0.9])
def test_the_share_is_that_of_singular_values_and_not_of_their_squares(held):
    rows = np.random.default_rng(3).normal(size=(60, 11)) * 0.7 ** np.arange(11)
    sigma, directions = np.linalg.svd(rows)[1:]
    count = next(k for k in range(1, 12) if sigma[:k].sum() >= held * sigma.sum())
    by_squares = next(k for k in range(1, 12) if (sigma[:k] ** 2).sum() >= held * (sigma**2).sum())
    assert by_squares < count
    found = leading_directions(torch.from_numpy(rows.T @ rows / 60), held).numpy()
    assert found.shape == (11, count)
    expected = directions[:count].T
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-10)


def test_ends_of_the_share():
    covariance = torch.diag(torch.tensor([4.0, 1.0, 1.0, 0.0])).double()
    assert leading_directions(covariance, 0.0).shape == (4, 0)
    assert leading_directions(covariance, 0.5).shape == (4, 1)  # 2 of 2 + 1 + 1, exactly
    assert leading_directions(covariance, 1.0).shape == (4, 3)
    assert leading_directions(torch.zeros(4, 4).double(), 0.9).shape == (4, 0)


def test_the_loss_is_the_formula():
    logits = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    shares = np.exp(logits.numpy())
    shares /= shares.sum(1, keepdims=True)
    own = shares[np.arange(7), labels.numpy()]
    unsure = -(shares * np.log(shares)).sum(1)
    expected = (-np.log(1 - own + 0.1)).mean() - 0.3 * unsure.mean()
    torch.testing.assert_close(unlearning_loss(logits, labels, 0.1, 0.3).item(), expected)
    # Sure of its label, the loss and its gradient are finite.
    sure = torch.tensor([[900.0, 0.0]]).requires_grad_()
    loss = unlearning_loss(sure, torch.tensor([0]), 0.1, 0.3)
    loss.backward()
    torch.testing.assert_close(loss.item(), -np.log(0.1), rtol=1e-6, atol=0)
    assert sure.grad.isfinite().all()


def test_a_step_is_the_gradient_off_the_leading_directions():
    model, data = trained(), images(10)
    forget, retain = split(data)
    method = ProjectedGradientUnlearning(epochs=1, rate=0.3, held=0.5, offset=0.2, entropy=0.7)
    found = method(model, problem_of(method, forget=forget, retain=retain), Streams(0))
    shares = model(forget.inputs).softmax(1)
    own = shares[torch.arange(len(forget)), forget.labels]
    unsure = -(shares * shares.log()).sum(1).mean()
    loss = -torch.log(1 - own + 0.2).mean() - 0.7 * unsure
    loss.backward()
    covariances = feature_covariances(model, [retain.inputs])
    for name, value in weights(found.model).items():
        before = model.state_dict()[name]
        if name not in ("0.weight", "3.weight", "8.weight"):
            assert torch.equal(value, before), name
            continue
        gradient = model.get_parameter(name).grad.flatten(1).double().numpy()
        width = gradient.shape[1]
        matrix = covariances[name.removesuffix(".weight")].matrix[:width, :width].numpy()
        values, vectors = np.linalg.eigh(matrix)
        sigma = np.sqrt(values[::-1].clip(0))
        count = int((sigma.cumsum() < 0.5 * sigma.sum()).sum()) + 1
        basis = vectors[:, ::-1][:, :count]
        step = 0.3 * (gradient - gradient @ basis @ basis.T)
        assert np.abs(step).max() > 1e-5
        moved = (before - value).flatten(1).double().numpy()
        np.testing.assert_allclose(moved, step, rtol=1e-3, atol=1e-6)
        assert found.report["kept"][name.removesuffix(".weight")] == width - count
    assert "8.bias" in found.report["frozen"]


def test_protected_outputs_barely_move_while_the_rest_does():
    """Few retained images leave room off their span, so nearly all they use can be held."""
    model, data = trained().double(), images(20)
    forget, retain = split(data)
    forget, retain = (Examples(one.inputs.double(), one.labels) for one in (forget, retain))
    few = part(retain, torch.tensor([0, 20, 40]))
    method = ProjectedGradientUnlearning(held=1 - 1e-6, rate=0.5, last_rate=0.5, epochs=60)
    found = method(model, problem_of(method, forget=forget, retain=few), Streams(0))
    drift = (found.model(few.inputs) - model(few.inputs)).abs().max().item()
    moved = (found.model(forget.inputs) - model(forget.inputs)).abs().max().item()
    assert moved > 0.1
    assert drift < 1e-3 * moved


def test_the_class_is_forgotten_and_the_others_kept():
    model = trained()
    forget, retain = split(images())
    method = ProjectedGradientUnlearning(held=0.7, epochs=40, stop_at=0.05)
    found = method(model, problem_of(method), Streams(0))
    assert forget_accuracy(model, forget) > 0.9
    assert forget_accuracy(found.model, forget) <= 0.05
    assert forget_accuracy(found.model, retain) >= found.report["retained_accuracy_before"] - 0.05
    assert found.report["stopped_by"] == "forget accuracy"
    assert found.report["epochs"] == len(found.curve) < 40


def test_it_stops_when_the_retained_accuracy_falls():
    method = ProjectedGradientUnlearning(held=0.0, rate=2.0, last_rate=2.0, epochs=30)
    found = method(trained(), problem_of(method), Streams(0))
    assert found.report["stopped_by"] == "retained accuracy"
    assert found.report["kept"] == {"0": 9.0, "3": 72.0, "8": 48.0}
    before = found.report["retained_accuracy_before"]
    falls = [before - entry["retained_accuracy"] for entry in found.curve]
    assert all(fall <= 0.05 for fall in falls[:-1])
    assert falls[-1] > 0.05
    assert found.curve[-1]["retained_accuracy"] == forget_accuracy(found.model, split(images())[1])


def test_the_rate_falls_by_the_same_factor_every_epoch():
    method = ProjectedGradientUnlearning()
    rates = np.array([method.rate_at(epoch) for epoch in range(1, 101)])
    np.testing.assert_allclose(rates, np.geomspace(0.1, 0.01, 100))
    assert ProjectedGradientUnlearning(epochs=1).rate_at(1) == 0.1


def test_projected_gradients_change_a_copy_and_repeat_themselves():
    method, model = ProjectedGradientUnlearning(epochs=2, batch_size=16), trained()
    model.train()
    model[0].requires_grad_(False)
    before, state = weights(model), torch.random.get_rng_state()
    looks = []

    def watch(epoch, student):
        looks.append((epoch, student.training))
        student.train()
        return {"looked": 2.0}

    first, again, other = (
        method(model, problem_of(method), Streams(seed), watch) for seed in (3, 3, 4)
    )
    assert same(weights(first.model), weights(again.model))
    assert not same(weights(first.model), weights(other.model))
    assert not same(weights(first.model), before)
    assert same(before, weights(model))
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert looks[:2] == [(1, False), (2, False)]
    assert [entry["looked"] for entry in first.curve] == [2.0, 2.0]
    assert not any(module.training for module in first.model.modules())
    assert all(parameter.grad is None for parameter in first.model.parameters())
    assert all(parameter.requires_grad for parameter in first.model.parameters())
    assert {"covariance", "updates"} <= set(first.seconds)


def test_projected_gradients_by_their_name():
    forget, retain = split(images(6))
    found = unlearn(trained(), forget, "pgu", retained=retain, epochs=1)
    assert "layers that may move" in str(found.report)
    with pytest.raises(ValueError, match="retain must be given"):
        unlearn(trained(), forget, "pgu", epochs=1)


def test_refusals_of_projected_gradients():
    for changes in (
        {"held": 1.2},
        {"fall": -0.1},
        {"offset": 0.0},
        {"entropy": -1.0},
        {"last_rate": 0.0},
        {"decay": "cosine"},
        {"optimizer": "adam"},
        {"weight_decay": 0.1},
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            ProjectedGradientUnlearning(**changes)
