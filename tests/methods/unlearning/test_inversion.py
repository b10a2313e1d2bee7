"""Inversion: its terms against numpy, gradients against differences, and what it promises."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sextant.methods.unlearning import progress
from sextant.methods.unlearning.covariance import LayerCovariance
from sextant.methods.unlearning.inversion import Inversion, PoorInversion, balanced_labels
from sextant.methods.unlearning.inversion_terms import (
    BatchNormInputs,
    batch_norm_layers,
    batch_norm_term,
    pixel_norm,
    total_variation,
)
from sextant.methods.unlearning.problem import Examples
from sextant.methods.unlearning.proxy_quality import batch_norm_ratio, energy_capture, quality
from tests.unlearning_problem import SPACE, images, network
from tests.unlearning_wider import KEPT, of_classes, trained_wide

SHAPE = (1, 8, 8)
QUICK = Inversion(
    images=30, iterations=80, rate=0.1, batch_norm=0.3, jitter=0, least_accuracy=0.8, progress=False
)


def inverted(model, seed=0, inversion=QUICK, **changes):
    inversion = dataclasses.replace(inversion, **changes)
    return inversion(model, KEPT, SHAPE, SPACE, torch.Generator().manual_seed(seed))


def numpy_distance(model, inputs):
    """R_bn of the layers of a sequential model, layer by layer in numpy."""
    total, values = 0.0, inputs
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            rows = (
                values.detach().double().numpy().transpose(1, 0, 2, 3).reshape(len(values[0]), -1)
            )
            mean, variance = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
            total += np.linalg.norm(rows.mean(1) - mean) + np.linalg.norm(rows.var(1) - variance)
        values = layer(values)
    return total


def test_the_statistics_term_is_that_of_numpy():
    model, inputs = trained_wide(), images(5, seed=2).inputs
    with torch.no_grad(), BatchNormInputs(model) as seen:
        model(inputs)
    calls = seen.taken()
    assert [layer for layer, _ in calls] == [model[1], model[4], model[7]]
    assert seen.taken() == []
    expected = numpy_distance(model, inputs)
    assert batch_norm_term(calls).item() == pytest.approx(expected, rel=1e-5)
    examples = images(5, seed=2)
    for size in (3, 20):
        distance = quality(model, examples, size)["batch_norm_distance"]
        assert distance == pytest.approx(expected, rel=1e-6)
    assert batch_norm_term([]).item() == 0


def test_pixel_terms_are_those_of_numpy():
    drawn = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    values = drawn.numpy()
    across = np.abs(np.diff(values, axis=2)).mean() + np.abs(np.diff(values, axis=3)).mean()
    assert total_variation(drawn).item() == pytest.approx(across)
    assert pixel_norm(drawn).item() == pytest.approx(np.linalg.norm(values, axis=1).mean())
    assert total_variation(drawn[:, :, :1, :1]).item() == 0


def test_gradients_go_through_the_inputs_of_batch_normalisation():
    model = network().double().eval()
    start = images(1, seed=1).inputs[:2].double().requires_grad_()

    def statistics(pixels):
        with BatchNormInputs(model) as seen:
            model(pixels)
        return batch_norm_term(seen.taken())

    assert torch.autograd.gradcheck(statistics, (start,))
    assert torch.autograd.gradcheck(total_variation, (start,))
    assert torch.autograd.gradcheck(pixel_norm, (start,))
    labels = torch.tensor([0, 1])
    inversion = Inversion(l2=0.2)
    assert torch.autograd.gradcheck(
        lambda pixels: inversion.loss(model, pixels, labels, (1, -1)), (start,)
    )


def test_every_call_of_a_shared_layer_counts_and_frozen_ones_too():
    from torchvision.ops import FrozenBatchNorm2d

    shared = nn.BatchNorm2d(1)
    model = nn.Sequential(shared, shared, FrozenBatchNorm2d(1), nn.InstanceNorm2d(1)).eval()
    assert list(batch_norm_layers(model)) == ["0", "2"]
    with BatchNormInputs(model) as seen:
        model(images(2).inputs)
    assert len(seen.taken()) == 3


def test_images_are_recognised_bounded_balanced_and_better_than_the_start():
    model = trained_wide().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = inverted(model, iterations=150)
    assert found.report["own_accuracy"] >= 0.95
    assert found.report["batch_norm_layers"] == 3
    assert found.examples.labels.bincount().tolist() == [10, 0, 10, 10]
    pixels = SPACE.to_pixels(found.examples.inputs)
    assert pixels.shape == (30, *SHAPE)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert not found.examples.inputs.requires_grad
    first, kept = found.losses[0]
    assert kept < 0.5 * first
    # The images kept are those whose loss is reported: without jitter it can be computed again.
    again = QUICK.loss(model.eval(), found.examples.inputs, found.examples.labels)
    assert again.item() == pytest.approx(kept, rel=1e-4)
    model.train()
    model[1].eval()
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_rate_that_overshoots_keeps_an_earlier_image():
    found = inverted(trained_wide(), rate=50.0, iterations=3, least_accuracy=0.0)
    first, kept = found.losses[0]
    assert kept <= first


def test_statistics_term_brings_statistics_closer():
    model = trained_wide()
    near, far = (
        inverted(model, batch_norm=weight, least_accuracy=0.0).report["batch_norm_distance"]
        for weight in (0.3, 0.0)
    )
    assert near < 0.5 * far


def test_a_generator_says_everything():
    model = trained_wide()
    few = {"iterations": 4, "least_accuracy": 0.0, "jitter": 2}
    one, again, other = (inverted(model, seed, **few).examples.inputs for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    inverted(model, **few)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("schedule", ["constant", "drop", "cosine"])
def test_batches_are_even_and_schedules_are_closed_forms(schedule):
    inversion = Inversion(
        images=10, batch_size=4, iterations=8, schedule=schedule, least_accuracy=0, start="normal"
    )
    found = inversion(network().eval(), (0, 1), SHAPE, SPACE, torch.Generator().manual_seed(0))
    assert len(found.losses) == 3
    assert found.examples.labels.tolist() == [0, 1] * 5
    shares = [inversion._share(step) for step in range(8)]
    expected = {
        "constant": np.ones(8),
        "drop": np.array([1.0] * 4 + [0.1] * 4),
        "cosine": 0.5 + 0.5 * np.cos(np.pi * np.arange(8) / 8),
    }[schedule]
    np.testing.assert_allclose(shares, expected)


def test_a_model_without_batch_normalisation_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 4))
    found = inverted(model, batch_norm=10.0)
    assert found.report["batch_norm_layers"] == 0
    assert found.report["batch_norm_distance"] is None
    assert found.report["own_accuracy"] == 1.0
    with pytest.raises(ValueError, match="must have batch normalisation"):
        batch_norm_ratio(model, found.examples, found.examples)


def test_images_that_are_not_recognised_are_never_silent():
    model = trained_wide()
    bad = {"iterations": 1, "rate": 1e-6, "least_accuracy": 0.9}
    with pytest.raises(PoorInversion, match=r"recognises .*% of its .*least_accuracy = 90\.0%"):
        inverted(model, **bad)
    with pytest.warns(RuntimeWarning, match="least_accuracy"):
        inverted(model, on_poor="warn", **bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inverted(model)


def test_hooks_and_modes_are_gone_after_an_error():
    model = trained_wide().train()
    with pytest.raises(RuntimeError), warnings.catch_warnings():
        QUICK(model, KEPT, (1, 8, 0), SPACE, torch.Generator())
    with torch.no_grad():
        model[11].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        inverted(model)
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_energy_capture_is_that_of_numpy_and_one_for_the_same_space():
    generator = np.random.default_rng(0)
    proxy, real = (generator.normal(size=(40, 6)) * np.arange(1, 7) for _ in range(2))
    covariances = [
        {"a": LayerCovariance(torch.from_numpy(z.T @ z / 40), 40)} for z in (proxy, real)
    ]
    _, singular, rows = np.linalg.svd(proxy)
    energy = np.cumsum(singular**2) / np.sum(singular**2)
    count = int(np.searchsorted(energy, 0.9)) + 1
    expected = np.linalg.norm(real @ rows[:count].T) ** 2 / np.linalg.norm(real) ** 2
    assert energy_capture(*covariances)["a"] == pytest.approx(expected)
    assert energy_capture(*covariances, share=1.0)["a"] == pytest.approx(1.0)
    narrow = {"a": LayerCovariance(torch.diag(torch.tensor([1.0, 0, 0]).double()), 9)}
    other = {"a": LayerCovariance(torch.diag(torch.tensor([0.0, 3, 1]).double()), 9)}
    assert energy_capture(narrow, other)["a"] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="same layers"):
        energy_capture(narrow, {})
    with pytest.raises(ValueError, match="share must lie in"):
        energy_capture(narrow, other, share=0.0)


def test_real_images_are_near_the_running_statistics_and_noise_is_not():
    model, real = trained_wide(), images(15, seed=0)
    drawn = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(0))
    noise = Examples(SPACE.to_inputs(drawn), real.labels)
    assert batch_norm_ratio(model, real, real) == pytest.approx(1.0)
    assert batch_norm_ratio(model, noise, real) > 1.5
    with pytest.raises(ValueError, match="equally many, got 60 and 45"):
        batch_norm_ratio(model, noise, of_classes(real, *KEPT))


def test_a_bar_appears_only_when_asked_and_after_some_patience(capsys, monkeypatch):
    with progress.progress_bar(2, "working", True) as advance:
        advance(1)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.progress_bar(2, "working", False) as advance:
        advance(1)
    assert capsys.readouterr().out == ""
    with progress.progress_bar(2, "working", True) as advance:
        advance(1)
        advance(1)
    assert "working" in capsys.readouterr().out


def test_presets_may_be_changed_and_settings_are_checked():
    brainwash = Inversion.brainwash(images=8)
    assert (brainwash.iterations, brainwash.jitter, brainwash.images) == (10_000, 0, 8)
    assert Inversion.deep_inversion(iterations=5).batch_norm == 10.0
    for name in ("images", "batch_size", "iterations"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Inversion(**{name: 0})
    for name in ("cross_entropy", "batch_norm", "total_variation", "l2", "jitter"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0"):
            Inversion(**{name: -1})
    for name in ("start", "schedule", "on_poor"):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            Inversion(**{name: "other"})
    with pytest.raises(ValueError, match="rate must be positive"):
        Inversion(rate=0.0)
    with pytest.raises(ValueError, match="least_accuracy must lie in"):
        Inversion(least_accuracy=1.5)
    with pytest.raises(ValueError, match="classes must be at least one and all different"):
        balanced_labels((1, 1), 4)
    with pytest.raises(ValueError, match="the 1 channels of the pixel space"):
        QUICK(network(), KEPT, (3, 8, 8), SPACE, torch.Generator())
    with pytest.raises(ValueError, match="space must say how pixels became inputs"):
        QUICK(network(), KEPT, SHAPE, None, torch.Generator())
