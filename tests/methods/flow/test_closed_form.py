"""Gaussian flows: the definitions, the mean-flow identity and the sampler agree to rounding."""

import pytest
import torch
from scipy.integrate import solve_ivp

from sextant.methods.flow import closed_form
from sextant.methods.flow.mean_flow import regression_target, velocity_and_derivative
from sextant.methods.flow.sampling import sample

N, MEAN = 64, torch.tensor([1.5, -0.7], dtype=torch.float64)
EXACT = {"rtol": 0, "atol": 1e-10}
FORMS = {
    "independent": (
        closed_form.independent_velocity,
        closed_form.independent_average_velocity,
    ),
    "optimal": (closed_form.optimal_velocity, closed_form.optimal_average_velocity),
}


@pytest.fixture(params=[(form, std) for form in FORMS for std in (0.3, 1.0, 2.5)], ids=str)
def flow(request):
    """(velocity(z, t), average(z, r, t), std) of one Gaussian problem."""
    form, std = request.param
    velocity, average = FORMS[form]
    return (
        lambda z, t: velocity(z, t, MEAN, std),
        lambda z, r, t: average(z, r, t, MEAN, std),
        std,
    )


@pytest.fixture
def points():
    torch.manual_seed(0)
    z = torch.randn(N, 2, dtype=torch.float64)
    t = torch.rand(N, dtype=torch.float64)
    return z, t * torch.rand(N, dtype=torch.float64), t


def as_network(average):
    return lambda z, t, h, labels: average(z, t - h, t)


def test_mean_flow_identity(flow, points):
    velocity, average, _ = flow
    z, r, t = points
    v = velocity(z, t)
    u, derivative = velocity_and_derivative(as_network(average), z, r, t, v)
    torch.testing.assert_close(u, regression_target(v, derivative, r, t), **EXACT)


@pytest.mark.parametrize(
    "tangents",
    [
        pytest.param(lambda v, one: (v, one, 0 * one), id="r and t swapped"),
        pytest.param(lambda v, one: (0 * v, 0 * one, one), id="no velocity"),
        pytest.param(lambda v, one: (v, 0 * one, 0 * one), id="no time"),
        pytest.param(lambda v, one: (-v, 0 * one, one), id="wrong sign"),
    ],
)
def test_wrong_tangents_break_the_identity(tangents, points):
    z, r, t = points
    v = closed_form.independent_velocity(z, t, MEAN, 0.3)
    u, derivative = torch.func.jvp(
        lambda z, r, t: closed_form.independent_average_velocity(z, r, t, MEAN, 0.3),
        (z, r, t),
        tangents(v, torch.ones_like(t)),
    )
    assert (u - regression_target(v, derivative, r, t)).abs().max() > 1e-2


def test_optimal_pairs_need_no_correction(points):
    z, r, t = points
    v = closed_form.optimal_velocity(z, t, MEAN, 0.3)
    network = as_network(lambda *a: closed_form.optimal_average_velocity(*a, MEAN, 0.3))
    _, derivative = velocity_and_derivative(network, z, r, t, v)
    assert derivative.abs().max() < 1e-10


def test_literal_formula(points):
    z, r, t = points
    std, r_, t_ = 0.3, r[:, None], t[:, None]
    ratio = closed_form.spread(r_, std) / closed_form.spread(t_, std)
    literal = (z - (1 - r_) * MEAN - ratio * (z - (1 - t_) * MEAN)) / (t_ - r_)
    found = closed_form.independent_average_velocity(z, r, t, MEAN, std)
    torch.testing.assert_close(found, literal, rtol=1e-9, atol=1e-10)


def test_average_is_the_integral_of_the_velocity(flow):
    velocity, average, _ = flow
    start, t, r = torch.tensor([[0.4, -1.1]], dtype=torch.float64), 0.9, 0.2

    def slope(time, state):
        z, times = torch.from_numpy(state)[None], torch.tensor([time], dtype=torch.float64)
        return velocity(z, times)[0].numpy()

    solution = solve_ivp(slope, (t, r), start[0].numpy(), rtol=1e-11, atol=1e-12)
    travelled = (start[0] - torch.from_numpy(solution.y[:, -1])) / (t - r)
    times = torch.tensor([[r], [t]], dtype=torch.float64)
    torch.testing.assert_close(average(start, *times)[0], travelled, rtol=0, atol=1e-8)


def test_velocity_is_the_conditional_mean():
    """Least squares of the pairs' velocities on z_t gives the line the closed form draws."""
    torch.manual_seed(1)
    n, time, std = 400_000, 0.5, 0.3
    e, x = torch.randn(2, n, dtype=torch.float64)
    z, v = (1 - time) * (1.5 + std * x) + time * e, e - (1.5 + std * x)
    slope = torch.cov(torch.stack((z, v)))[0, 1] / z.var()
    grid = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    times = torch.full((2,), time, dtype=torch.float64)
    form = closed_form.independent_velocity(grid, times, 1.5, std)[:, 0]
    assert (form[1] - form[0]).item() == pytest.approx(slope.item(), abs=0.01)
    assert form[0].item() == pytest.approx((v.mean() - slope * z.mean()).item(), abs=0.01)


def test_conditional_variance():
    torch.manual_seed(2)
    n, dimension, std = 100_000, 2, 0.3
    t = torch.full((n,), 0.5, dtype=torch.float64)
    e, noise = torch.randn(2, n, dimension, dtype=torch.float64)
    for x, velocity, expected in (
        (
            MEAN + std * noise,
            closed_form.independent_velocity,
            closed_form.independent_conditional_variance(t[:1], dimension, std).item(),
        ),
        (MEAN + std * e, closed_form.optimal_velocity, 0.0),
    ):
        z = 0.5 * x + 0.5 * e
        spread = ((e - x) - velocity(z, t, MEAN, std)).square().sum(1).mean().item()
        assert spread == pytest.approx(expected, rel=0.02, abs=1e-20)
    assert expected == 0.0


def test_composition(flow, points):
    _, average, _ = flow
    z, r, t = points
    q = 0.5 * (r + t)
    lengths = {
        name: value[:, None] for name, value in {"tr": t - r, "tq": t - q, "qr": q - r}.items()
    }
    first = average(z, q, t)
    second = average(z - lengths["tq"] * first, r, q)
    torch.testing.assert_close(
        lengths["tr"] * average(z, r, t), lengths["tq"] * first + lengths["qr"] * second, **EXACT
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_every_number_of_steps_reaches_the_data(flow, steps):
    _, average, std = flow
    torch.manual_seed(4)
    source = torch.randn(N, 2, dtype=torch.float64)
    found = sample(as_network(average), source, steps)
    torch.testing.assert_close(found, MEAN + std * source, **EXACT)


def test_a_sampler_running_backwards_misses(flow):
    _, average, std = flow
    torch.manual_seed(4)
    source = torch.randn(N, 2, dtype=torch.float64)
    data, network = MEAN + std * source, as_network(average)
    swapped = sample(lambda *question: -network(*question), source, 2)
    assert (swapped - data).abs().max() > 0.1
    assert (sample(network, data, 2) - data).abs().max() > 0.1


def test_bad_std_is_named():
    with pytest.raises(ValueError, match="std"):
        closed_form.spread(torch.rand(3), 0.0)
