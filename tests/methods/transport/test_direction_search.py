"""Smooth and annealed searches: the algebraic identity, gradients, and what they find."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.transport.sliced import direction_search
from sextant.methods.transport.sliced.direction_search import (
    accepts,
    annealed_min_sliced,
    smooth_min_sliced,
    smooth_sliced_loss,
)
from sextant.methods.transport.sliced.directions import random_directions, sliced_costs


def stretched(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds that agree on a long first axis and are unrelated on short other ones."""
    generator = torch.Generator().manual_seed(0)
    long = 3 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    source, target = (
        torch.cat([long, 0.3 * torch.randn(n, 4, generator=generator).double()], 1)
        for _ in range(2)
    )
    return source, target[torch.randperm(n, generator=generator)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 1000), st.integers(1, 3))
def test_without_noise_the_smooth_loss_is_the_cost_and_is_flat(n, d, seed, copies):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64)
    target = torch.randn(n, d, generator=generator, dtype=torch.float64) + 1
    direction = random_directions(1, d, generator)[0].requires_grad_()
    expected = sliced_costs(source, target, direction[None], "sqeuclidean")[0]
    for noise in (None, torch.zeros(2, copies, n, dtype=torch.float64)):
        loss = smooth_sliced_loss(source, target, direction, noise)
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-9, atol=1e-9)
        (slope,) = torch.autograd.grad(loss, direction)
        assert slope.abs().max() < 1e-9 * (1 + expected)


def test_smooth_loss_equals_its_definition_point_by_point(clouds):
    n, copies = 12, 3
    source, target = clouds(n, 3)
    direction = random_directions(1, 3, generator())[0]
    noise = 0.4 * torch.randn(2, copies, n, generator=generator(1), dtype=torch.float64)
    line = [sorted((float(p @ direction), k) for k, p in enumerate(c)) for c in (source, target)]
    total = 0.0
    blurred = [
        [
            sorted((line[side][k][0] + noise[side, s, k].item(), k) for k in range(n))
            for side in (0, 1)
        ]
        for s in range(copies)
    ]
    for rank in range(n):
        (u, i), (v, j) = line[0][rank], line[1][rank]
        z = direction * (u + v) / 2
        middle = torch.zeros(3, dtype=torch.float64)
        for x_line, y_line in blurred:
            x = source[line[0][x_line[rank][1]][1]]
            y = target[line[1][y_line[rank][1]][1]]
            middle += (x + y) / 2 / copies
        total += 2 * (source[i] - z).square().sum() + 2 * (target[j] - z).square().sum()
        total -= 4 * (middle - z).square().sum()
    loss = smooth_sliced_loss(source, target, direction, noise)
    assert loss.item() == pytest.approx(float(total) / n, rel=1e-12)


def test_noise_gives_the_loss_a_slope(clouds):
    source, target = clouds(60, 3)
    direction = random_directions(1, 3, generator())[0].requires_grad_()
    noise = 0.5 * torch.randn(2, 10, 60, generator=generator(), dtype=torch.float64)
    loss = smooth_sliced_loss(source, target, direction, noise)
    assert torch.autograd.grad(loss, direction)[0].norm() > 1e-3


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_smooth_search_goes_down_to_a_good_direction(optimiser):
    source, target = stretched(100)
    # 70 degrees away from the axis along which the clouds agree
    angle = math.radians(70)
    start = torch.tensor([math.cos(angle), math.sin(angle), 0.0, 0.0, 0.0])
    rate = {"sgd": 0.02, "adam": 0.05}[optimiser]
    found = smooth_min_sliced(
        source, target, generator(), start=start, noise=1.0, learning_rate=rate, optimiser=optimiser
    )
    assert len(found.curve) == 101
    assert found.cost < 0.5 * found.curve[0]
    assert found.cost == found.curve.min()
    axis = torch.eye(5, dtype=torch.float64)[:1]
    assert found.cost < 1.25 * sliced_costs(source, target, axis, "sqeuclidean")[0]


def test_annealing_finds_what_many_random_directions_find():
    source, target = stretched(100)
    rays = random_directions(400, 5, generator(7))
    several = sliced_costs(source, target, rays, "euclidean").min()
    found = annealed_min_sliced(source, target, generator(), "euclidean", steps=400)
    assert found.cost <= several
    assert found.curve[-1] == pytest.approx(found.cost.item(), rel=0.1)


def test_annealing_without_temperature_never_climbs_and_with_it_does():
    source, target = stretched(50)
    cold = annealed_min_sliced(source, target, generator(), steps=100, temperature=0.0)
    assert (cold.curve.diff() <= 0).all()
    warm = annealed_min_sliced(source, target, generator(), steps=100, temperature=5.0)
    assert (warm.curve.diff() > 0).any()


def test_increases_are_accepted_as_often_as_boltzmann_says():
    chances = torch.rand(20_000, generator=generator()).tolist()
    for increase, temperature in ((0.5, 1.0), (3.0, 2.0)):
        share = sum(accepts(increase, temperature, chance) for chance in chances) / len(chances)
        assert share == pytest.approx(math.exp(-increase / temperature), abs=0.015)
    assert accepts(0.0, 0.0, 0.99)
    assert accepts(-1.0, 0.0, 0.99)
    assert not accepts(1e-12, 0.0, 0.0)


def test_the_temperature_falls_linearly_to_zero(clouds, monkeypatch):
    temperatures = []

    def record(increase: float, temperature: float, chance: float) -> bool:
        temperatures.append(temperature)
        return True

    monkeypatch.setattr(direction_search, "accepts", record)
    annealed_min_sliced(*clouds(5, 2), generator(), steps=5, temperature=2.0)
    assert temperatures == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("search", [smooth_min_sliced, annealed_min_sliced])
def test_results_are_consistent_and_repeatable(clouds, search):
    source, target = clouds(30, 3)
    first, second = (search(source, target, generator(3), "euclidean", steps=15) for _ in range(2))
    assert torch.equal(first.curve, second.curve)
    assert torch.equal(first.direction, second.direction)
    assert first.direction.norm().item() == pytest.approx(1)
    assert first.plan.cost(source, target, "euclidean").item() == pytest.approx(first.cost.item())
    again = sliced_costs(source, target, first.direction[None], "euclidean")[0]
    assert again.item() == pytest.approx(first.cost.item())
    other = search(source, target, generator(4), "euclidean", steps=15)
    assert not torch.equal(first.curve, other.curve)
    start = torch.tensor([0.0, 2.0, 0.0])
    still = search(source, target, generator(), "euclidean", start=start, steps=0)
    assert torch.equal(still.direction, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_annealing_takes_unequal_clouds_and_the_smooth_search_refuses_them(clouds):
    source, target = clouds(30, 3)
    found = annealed_min_sliced(source[:20], target, generator(), steps=5)
    assert found.plan.shape == (20, 30)
    with pytest.raises(ValueError, match="equally many points"):
        smooth_min_sliced(source[:20], target, generator(), steps=5)


@pytest.mark.parametrize(
    ("search", "arguments", "words"),
    [
        (smooth_min_sliced, {"copies": 0}, "copies"),
        (smooth_min_sliced, {"noise": -1.0}, "noise"),
        (smooth_min_sliced, {"learning_rate": 0.0}, "learning_rate"),
        (smooth_min_sliced, {"optimiser": "lbfgs"}, "optimiser"),
        (smooth_min_sliced, {"steps": -1}, "steps"),
        (smooth_min_sliced, {"cost": "l1"}, "cost"),
        (smooth_min_sliced, {"start": torch.zeros(3)}, "start"),
        (annealed_min_sliced, {"start": torch.ones(2)}, "start"),
        (annealed_min_sliced, {"step_size": 0.0}, "step_size"),
        (annealed_min_sliced, {"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_settings_are_refused_by_name(clouds, search, arguments, words):
    with pytest.raises(ValueError, match=words):
        search(*clouds(10, 3), generator(), **arguments)
    with pytest.raises(ValueError, match="noise must have shape"):
        smooth_sliced_loss(*clouds(10, 3), torch.ones(3).double(), torch.zeros(2, 1, 9))
