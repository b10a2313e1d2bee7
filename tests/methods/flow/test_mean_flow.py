"""Derivatives, loss and weight of the mean-flow objective."""

import pytest
import torch

from sextant.methods.flow.flow_matching import flow_matching_loss
from sextant.methods.flow.mean_flow import (
    adaptive_weight,
    mean_flow_loss,
    regression_target,
    squared_error,
    velocity_and_derivative,
)
from sextant.methods.flow.paths import conditional_velocity, interpolate


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    assert all(grad.abs().sum() > 0 for grad in found.values())
    return found


def along_path(network, z, r, t, velocity, labels):
    def average(z, r, t):
        return network(z, t, t - r, labels)

    return average, (z, r, t), (velocity, torch.zeros_like(r), torch.ones_like(t))


@pytest.mark.parametrize("training", [True, False])
def test_derivative_equals_every_other_route(network_and_batch, training):
    network, source, target, r, t, labels = network_and_batch
    network.train(training)
    z, velocity = interpolate(source, target, t), conditional_velocity(source, target)
    u, derivative = velocity_and_derivative(network, z, r, t, velocity, labels)
    assert u.requires_grad
    assert not derivative.requires_grad

    average, primals, tangents = along_path(network, z, r, t, velocity, labels)
    for value, tangent in (
        torch.func.jvp(average, primals, tangents),
        torch.autograd.functional.jvp(average, primals, tangents),
    ):
        torch.testing.assert_close(u, value, rtol=0, atol=1e-12)
        torch.testing.assert_close(derivative, tangent, rtol=0, atol=1e-12)
    with torch.no_grad():
        step = 1e-5
        ends = (
            average(*(p + sign * step * d for p, d in zip(primals, tangents, strict=True)))
            for sign in (1, -1)
        )
        central = (next(ends) - next(ends)) / (2 * step)
    torch.testing.assert_close(derivative, central, rtol=0, atol=1e-7)


def test_derivative_in_single_precision(network_and_batch):
    network, source, target, r, t, labels = network_and_batch
    network.float()
    source, target, r, t = (tensor.float() for tensor in (source, target, r, t))
    z, velocity = interpolate(source, target, t), conditional_velocity(source, target)
    _, derivative = velocity_and_derivative(network, z, r, t, velocity, labels)
    average, primals, tangents = along_path(network, z, r, t, velocity, labels)
    with torch.no_grad():
        plus, minus = (
            average(*(p + sign * 1e-3 * d for p, d in zip(primals, tangents, strict=True)))
            for sign in (1, -1)
        )
    torch.testing.assert_close(derivative, (plus - minus) / 2e-3, rtol=1e-2, atol=3e-3)


def test_own_pass_has_the_gradients_of_the_plain_one(network_and_batch):
    network, source, target, r, t, labels = network_and_batch
    if not hasattr(network, "forward_with_tangent"):
        pytest.skip("this network has no tangent pass of its own")
    one, cotangent = torch.ones_like(t), torch.randn_like(source)
    u, _ = network.forward_with_tangent(source, t, t - r, labels, target, one, one)
    own = gradients(network, (u * cotangent).sum())
    plain = gradients(network, (network(source, t, t - r, labels) * cotangent).sum())
    for name, grad in plain.items():
        torch.testing.assert_close(own[name], grad, rtol=0, atol=1e-12)


def test_two_passes_equal_one(network_and_batch, wrapped):
    network, source, target, r, t, labels = network_and_batch
    network = wrapped(network)
    results = []
    for two_passes in (False, True):
        loss, raw = mean_flow_loss(network, source, target, r, t, labels, two_passes=two_passes)
        results.append((gradients(network, loss), raw))
    for name, grad in results[0][0].items():
        torch.testing.assert_close(grad, results[1][0][name], rtol=0, atol=1e-12)
    assert results[0][1].item() == pytest.approx(results[1][1].item(), rel=1e-12)


def test_own_pass_and_jvp_train_alike(network_and_batch, wrapped):
    network, source, target, r, t, labels = network_and_batch
    own, raw = mean_flow_loss(network, source, target, r, t, labels)
    own = gradients(network, own)
    outer = wrapped(network)
    loss, other = mean_flow_loss(outer, source, target, r, t, labels)
    for name, grad in gradients(outer, loss).items():
        torch.testing.assert_close(own[name.removeprefix("network.")], grad, rtol=0, atol=1e-12)
    assert raw.item() == pytest.approx(other.item(), rel=1e-12)


def test_no_gradient_through_target_and_weight(network_and_batch):
    """The gradient is that of a regression on constants with constant weights."""
    network, source, target, r, t, labels = network_and_batch
    loss, _ = mean_flow_loss(network, source, target, r, t, labels, weight_power=0.75)
    found = gradients(network, loss)
    z, velocity = interpolate(source, target, t), conditional_velocity(source, target)
    _, derivative = velocity_and_derivative(network, z, r, t, velocity, labels)
    constant = regression_target(velocity, derivative, r, t)
    assert not constant.requires_grad
    u = network(z, t, t - r, labels)
    error = (u - constant).square().flatten(1).sum(1)
    weight = 1 / (error.detach() + 1e-3) ** 0.75
    for name, grad in gradients(network, (weight * error).mean()).items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-12)


def test_rows_with_equal_times_are_flow_matching(network_and_batch):
    network, source, target, _, t, labels = network_and_batch
    loss, raw = mean_flow_loss(network, source, target, t, t, labels, weight_power=0.0)
    expected, _ = flow_matching_loss(network, source, target, t, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
    assert raw.item() == pytest.approx(expected.item(), rel=1e-13)
    velocity = conditional_velocity(source, target)
    wild = torch.full_like(velocity, 1e6)
    assert torch.equal(regression_target(velocity, wild, t, t), velocity)


def test_weight():
    torch.manual_seed(0)
    error = torch.rand(50, dtype=torch.float64) * 10
    assert torch.equal(adaptive_weight(error, 0.0, 1e-3), torch.ones_like(error))
    weighted = error * adaptive_weight(error, 1.0, 1e-3)
    assert bool(((weighted > 0) & (weighted < 1)).all())
    # With power 1 the scale of the error enters through the offset alone.
    scaled = 7 * error * adaptive_weight(7 * error, 1.0, 7e-3)
    torch.testing.assert_close(scaled, weighted)
    assert not adaptive_weight(error.requires_grad_(), 1.0, 1e-3).requires_grad


def test_loss_with_power_zero_and_one(network_and_batch):
    network, source, target, r, t, labels = network_and_batch
    plain, raw = mean_flow_loss(network, source, target, r, t, labels, weight_power=0.0)
    assert plain.item() == pytest.approx(raw.item(), rel=1e-13)
    loss, again = mean_flow_loss(network, source, target, r, t, labels, weight_power=1.0)
    assert 0 < loss.item() < 1
    assert again.item() == pytest.approx(raw.item(), rel=1e-13)
    assert not raw.requires_grad


def test_error_is_summed_over_everything_but_the_batch():
    prediction = torch.ones(3, 2, 5)
    assert torch.equal(
        squared_error(prediction, torch.zeros_like(prediction)), torch.full((3,), 10.0)
    )


def test_autocast_leaves_the_derivative_alone(network_and_batch, wrapped):
    network, source, target, r, t, labels = network_and_batch
    network.float()
    source, target, r, t = (tensor.float() for tensor in (source, target, r, t))
    for candidate in (network, wrapped(network)):
        z, velocity = interpolate(source, target, t), conditional_velocity(source, target)
        expected = velocity_and_derivative(candidate, z, r, t, velocity, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = velocity_and_derivative(candidate, z, r, t, velocity, labels)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
