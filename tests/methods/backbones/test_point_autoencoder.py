"""The point autoencoder, its Chamfer distance and its training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch import nn

from sextant.contracts import Autoencoder, StepBatches, Streams
from sextant.methods.backbones import point_autoencoder
from sextant.methods.backbones.point_autoencoder import (
    PointAutoencoder,
    PointReconstructionModule,
    chamfer_distance,
)
from tests.fitting import quiet_fit

STREAMS = Streams(3)


def by_tree(source, target):
    """Chamfer distances with scipy's KD-trees."""
    distances = []
    for one, other in zip(source.numpy(), target.numpy(), strict=True):
        forth, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
        distances.append(np.square(forth).mean() + np.square(back).mean())
    return np.array(distances)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4),
    st.integers(0, 99), st.sampled_from([1, 7, 100, 1 << 22]),
)  # fmt: skip
def test_chamfer_distance_is_the_trees(clouds, n, m, d, seed, at_once):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(clouds, n, d, generator=generator, dtype=torch.float64)
    target = 0.7 * torch.randn(clouds, m, d, generator=generator, dtype=torch.float64) + 0.3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_autoencoder, "PAIRS_AT_ONCE", at_once)
        found = chamfer_distance(source, target)
    np.testing.assert_allclose(found.numpy(), by_tree(source, target), rtol=1e-9)


def test_chamfer_distance_far_from_the_origin():
    """A matrix product alone would lose everything here in float32."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 3, 50, 3, generator=generator) + 1000.0
    expected = by_tree(source.double(), target.double())
    np.testing.assert_allclose(chamfer_distance(source, target).numpy(), expected, rtol=2e-3)
    same = chamfer_distance(source, source[:, torch.randperm(50, generator=generator)])
    assert torch.equal(same, torch.zeros(3))


@pytest.mark.parametrize("at_once", [20, 1 << 22])
def test_gradients_are_those_of_the_full_matrix(at_once, monkeypatch):
    monkeypatch.setattr(point_autoencoder, "PAIRS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3, 8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 11, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    matrix = (source[:, :, None] - target[:, None]).square().sum(3)
    expected = matrix.amin(2).mean(1) + matrix.amin(1).mean(1)
    expected = torch.autograd.grad((weights * expected).sum(), (source, target))
    found = (weights * chamfer_distance(source, target)).sum()
    found = torch.autograd.grad(found, (source, target))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def shaken(network):
    """Running statistics and weights of the norms as after a training."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.weight, 1.0, 0.3)
            nn.init.normal_(part.bias, 0.0, 0.3)
            nn.init.normal_(part.running_mean, 0.0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return network


@pytest.mark.parametrize("training", [False, True])
def test_the_encoder_is_convolutions_over_points(training):
    """The same weights in one-dimensional convolutions of kernel size 1, channels first."""
    torch.manual_seed(0)
    network = shaken(PointAutoencoder(10, code=6, width=8)).double().train(training)
    stacks = []
    for stack in (network.local, network.whole):
        layers = []
        for place in (0, 3, 6):
            linear, norm = stack[place], stack[place + 1]
            convolution = nn.Conv1d(linear.in_features, linear.out_features, 1).double()
            convolution.weight.data = linear.weight.detach()[:, :, None].clone()
            convolution.bias.data = linear.bias.detach().clone()
            copy = nn.BatchNorm1d(norm.num_features).double().train(training)
            copy.load_state_dict(norm.state_dict())
            layers += [convolution, copy, nn.ReLU()]
        assert len(stack) == 8
        stacks.append(nn.Sequential(*layers[:-1]))
    clouds = torch.randn(4, 15, 3, dtype=torch.float64)
    features = stacks[0](clouds.mT)
    features = features + features.max(2, keepdim=True).values
    expected = stacks[1](features).max(2).values
    torch.testing.assert_close(network.encode(clouds), expected)


@pytest.mark.parametrize(("points", "code", "width"), [(10, 6, 8), (128, 512, 256)])
def test_parameter_counts(points, code, width):
    widths = [(3, width // 2), (width // 2, width), *3 * [(width, width)], (width, code)]
    count = sum((narrow + 1) * wide + 2 * wide for narrow, wide in widths)
    count += (code + 1) * width + (width + 1) * width + (width + 1) * 3 * points
    network = PointAutoencoder(points, code, width)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert network(torch.randn(2, 7, 3)).shape == (2, points, 3)


def test_codes_do_not_depend_on_order_or_company(monkeypatch):
    torch.manual_seed(0)
    module = PointReconstructionModule(shaken(PointAutoencoder(10, 6, 8)), 1e-3, 5)
    clouds = torch.randn(5, 30, 3)
    assert module.network.training
    codes = module.encode(clouds)
    assert module.network.training
    assert codes.shape == (5, 6)
    assert not codes.requires_grad
    assert isinstance(module, Autoencoder)
    shuffled = clouds[:, torch.randperm(30)]
    torch.testing.assert_close(module.encode(shuffled), codes)
    torch.testing.assert_close(torch.cat([module.encode(cloud[None]) for cloud in clouds]), codes)
    torch.testing.assert_close(module.encode(clouds.repeat(1, 3, 1)), codes)
    monkeypatch.setattr(point_autoencoder, "POINTS_AT_ONCE", 61)
    torch.testing.assert_close(module.encode(clouds), codes)
    rebuilt = module.decode(codes)
    assert rebuilt.shape == (5, 10, 3)
    mixed = module.network.encode(clouds)
    assert (mixed - codes).abs().max() > 1e-3


def ellipsoids(step):
    generator = STREAMS.generator("batch", step)
    points = torch.randn(8, 40, 3, generator=generator)
    points = points / points.norm(dim=2, keepdim=True)
    return points * (0.2 + torch.rand(8, 1, 3, generator=generator)), torch.zeros(8)


def fit(module, steps, first_step=0, checkpoint=None):
    module.prepare(STREAMS, {}, None)
    return quiet_fit(module, StepBatches(ellipsoids, first_step, module.steps), steps, checkpoint)


def build(steps):
    torch.manual_seed(0)
    return PointReconstructionModule(PointAutoencoder(40, 12, 32), 3e-3, steps)


def test_it_learns_the_shape_of_ellipsoids():
    module = build(150)
    clouds, labels = ellipsoids(1000)
    fit(module, 150)
    rebuilt = module.decode(module.encode(clouds))
    found = chamfer_distance(rebuilt, clouds).mean().item()
    # What an autoencoder without a code could do at best: one and the same cloud for all.
    other, _ = ellipsoids(1001)
    blind = chamfer_distance(other, clouds).mean().item()
    assert found < 0.75 * blind
    module.network.eval()
    assert module.loss((clouds, labels)).item() == pytest.approx(found, rel=1e-5)
    assert module.loss(clouds).item() == pytest.approx(found, rel=1e-5)


def test_resumed_equals_undisturbed(tmp_path):
    whole, first, second = build(4), build(4), build(4)
    fit(whole, 4)
    fit(first, 2).save_checkpoint(tmp_path / "last.ckpt")
    fit(second, 4, first_step=2, checkpoint=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_bad_input_is_named():
    for name, size in {"points": 0, "code": 0, "width": 0}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            PointAutoencoder(**({"points": 4} | {name: size}))
    with pytest.raises(ValueError, match="width must be even"):
        PointAutoencoder(4, width=5)
    network = PointAutoencoder(4, 6, 8)
    for clouds in (torch.rand(5, 3), torch.rand(2, 5, 2), torch.rand(2, 0, 3)):
        with pytest.raises(ValueError, match="clouds must be"):
            network.encode(clouds)
    with pytest.raises(ValueError, match="codes must be"):
        network.decode(torch.rand(2, 5))
    good = torch.rand(2, 5, 3)
    for bad in (torch.rand(5, 3), torch.rand(3, 5, 3), torch.rand(2, 5, 2), torch.rand(2, 0, 3)):
        with pytest.raises(ValueError, match="source and target must be"):
            chamfer_distance(good, bad)
