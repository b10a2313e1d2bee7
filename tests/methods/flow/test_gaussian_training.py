"""Trained networks on the problem whose answer is known: N(0, I) to N(mean, std^2 I)."""

import math

import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.backbones.velocity import VelocityMLP
from sextant.methods.flow.module import FlowModule
from sextant.methods.flow.objectives import FlowMatching, MeanFlow
from sextant.methods.transport.couplings import Independent

MEAN, STD, STEPS = torch.tensor([1.5, -0.7]), 0.6, 500


def train(objective, paired):
    """A flow on Monge pairs or on independent pairs, and its raw error at the end."""
    torch.manual_seed(0)
    network = VelocityMLP(2, 48, 2, 1, lowest_frequency=math.pi)
    module = FlowModule(network, objective, Independent(), 1e-2, STEPS, ema_decay=0.98)
    streams, errors = Streams(5), []
    module.prepare(streams, {}, None)
    settings = module.configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    for step in range(STEPS):
        source, other = torch.randn(2, 256, 2, generator=streams.generator("batch", step))
        target = MEAN + STD * (source if paired else other)
        loss, error = module.loss(source, target, None, step)
        optimizer.zero_grad()
        loss.backward()
        module.limit_gradient()
        optimizer.step()
        schedule.step()
        module.update_average(step + 1)
        errors.append(error.item())
    return module, sum(errors[-50:]) / 50


@pytest.fixture(scope="module")
def trained():
    return {
        "transport": train(MeanFlow(), paired=True),
        "independent": train(MeanFlow(), paired=False),
        "matching": train(FlowMatching(), paired=False),
    }


@pytest.fixture(scope="module")
def source():
    return torch.randn(4000, 2, generator=Streams(9).generator("source"))


def spread(samples):
    return samples.std(0).mean().item()


@pytest.mark.parametrize("name", ["transport", "independent", "matching"])
@pytest.mark.parametrize("steps", [1, 20])
def test_the_mean_is_right(trained, source, name, steps):
    samples = trained[name][0].generate(source, steps)
    torch.testing.assert_close(samples.mean(0), MEAN, rtol=0, atol=0.08)


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_transport_pairs_give_the_monge_map_in_any_number_of_steps(trained, source, steps):
    error = trained["transport"][0].generate(source, steps) - (MEAN + STD * source)
    assert error.square().mean().sqrt() < 0.03


def test_one_step_of_each_objective(trained, source):
    """A velocity in one step lands on the mean; an average velocity keeps the spread.

    The corner (r, t) = (0, 1) is where a mean flow on independent pairs converges last, so its
    tolerance is wide here; the closed-form tests are the exact ones.
    """
    assert spread(trained["matching"][0].generate(source, 1)) < 0.25 * STD
    assert 0.55 * STD < spread(trained["independent"][0].generate(source, 1)) < 1.3 * STD
    assert spread(trained["transport"][0].generate(source, 1)) == pytest.approx(STD, rel=0.05)


def test_many_steps_of_each_objective(trained, source):
    assert spread(trained["matching"][0].generate(source, 20)) == pytest.approx(STD, rel=0.15)
    assert spread(trained["independent"][0].generate(source, 20)) == pytest.approx(STD, rel=0.25)


def test_transport_pairs_leave_less_variance_in_the_target(trained):
    assert trained["transport"][1] < 0.05 * trained["independent"][1]
