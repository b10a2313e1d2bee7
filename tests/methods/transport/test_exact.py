"""The cheapest permutation, against brute force and three other solvers."""

import itertools

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torchcfm.optimal_transport import OTPlanSampler

from sextant.methods.transport import exact
from sextant.methods.transport.costs import squared_distances
from sextant.methods.transport.exact import assign, column_prices, exact_pairs


def total(cost: torch.Tensor, columns: torch.Tensor) -> float:
    return cost[torch.arange(len(cost)), columns].sum().item()


@pytest.mark.parametrize("n", [1, 2, 17, 64, 300])
@pytest.mark.parametrize("d", [1, 2, 8])
def test_pairs_are_a_permutation_in_batch_order_that_costs_what_emd_costs(clouds, n, d):
    source, target = clouds(n, d)
    pairs = exact_pairs(source, target)
    assert torch.equal(pairs.source_index, torch.arange(n))
    assert torch.equal(pairs.target_index.sort().values, torch.arange(n))
    cost = squared_distances(source, target)
    weights = np.full(n, 1 / n)
    assert total(cost, pairs.target_index) / n == pytest.approx(
        ot.emd2(weights, weights, cost.numpy()), rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_assignment_equals_brute_force(n, seed):
    cost = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cheapest = min(total(cost, torch.tensor(p)) for p in itertools.permutations(range(n)))
    assert total(cost, assign(cost)) == pytest.approx(cheapest, abs=1e-12)


def test_pairs_equal_the_exact_plan_of_torchcfm(clouds):
    source, target = clouds(64)
    plan = OTPlanSampler(method="exact").get_map(source, target)
    expected = torch.from_numpy(plan.argmax(1))
    assert torch.equal(exact_pairs(source, target).target_index, expected)


def eight_gaussians(n: int, generator: torch.Generator) -> torch.Tensor:
    angle = torch.randint(0, 8, (n,), generator=generator) * (torch.pi / 4)
    centre = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.08 * torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("law", ["eight", "narrow", "clustered", "ties", "wide"])
def test_prices_change_no_total(seed, law):
    generator = torch.Generator().manual_seed(seed)
    n = 200
    source, target = torch.randn(n, 2, generator=generator), eight_gaussians(n, generator)
    if law == "narrow":
        target = 1e-3 * torch.randn(n, 2, generator=generator)
    if law == "clustered":
        source = source * 1e-3 + 50.0 * (torch.arange(n) % 2)[:, None]
    if law == "ties":
        source, target = source.round(), target.round()
    if law == "wide":
        source, target = source.repeat(1, 40), torch.randn(n, 80, generator=generator)
    cost = squared_distances(source.double(), target.double())
    rows, columns = linear_sum_assignment(cost.numpy())
    assert n >= exact.PRICED_FROM
    found = total(cost, exact_pairs(source, target).target_index)
    assert found == pytest.approx(cost.numpy()[rows, columns].sum(), rel=1e-6, abs=1e-9)
    assert found <= cost.numpy()[rows, columns].sum() * (1 + 1e-9) + 1e-9


def test_prices_are_nearly_optimal_dual_variables(clouds):
    cost = squared_distances(*clouds(256, 8)).numpy()
    prices = column_prices(cost)
    rows, columns = linear_sum_assignment(cost)
    best = cost[rows, columns].sum()
    # Weak duality: this bound never passes the optimum; without prices it is far below it.
    bound = (cost - prices).min(1).sum() + prices.sum()
    unpriced = cost.min(1).sum()
    assert bound <= best * (1 + 1e-9)
    assert best - bound < 0.1 * (best - unpriced)


def test_hopeless_prices_only_cost_time(clouds, monkeypatch):
    cost = squared_distances(*clouds(170))
    expected = total(cost, assign(cost))
    noise = np.random.default_rng(0).normal(size=170) * 10
    monkeypatch.setattr(exact, "column_prices", lambda matrix: noise)
    assert total(cost, assign(cost)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e120])
def test_prices_survive_costs_of_any_size(clouds, scale):
    cost = squared_distances(*clouds(170))
    assert total(cost, assign(cost * scale)) == pytest.approx(total(cost, assign(cost)), rel=1e-9)


def test_the_cost_that_was_handed_in_is_left_alone(clouds):
    cost = squared_distances(*clouds(170))
    before = cost.clone()
    assign(cost)
    assign(cost.t())
    assert torch.equal(cost, before)


def test_float32_points_far_from_the_origin_give_the_same_pairs(clouds):
    source, target = (points.float().double() for points in clouds(64))
    pairs = exact_pairs(source, target)
    moved = exact_pairs(source + 4.0, target - 256.0)
    assert torch.equal(pairs.target_index, moved.target_index)


def test_identical_points_and_one_point_are_paired():
    for n in (1, 5, 200):
        pairs = exact_pairs(torch.ones(n, 2), torch.ones(n, 2))
        assert torch.equal(pairs.target_index.sort().values, torch.arange(n))


def test_one_dimension_is_sorted(clouds):
    source, target = clouds(17, 1)
    index = exact_pairs(source, target).target_index
    assert torch.equal(index, assign(squared_distances(source, target)))
    assert torch.equal(target[index][source[:, 0].argsort(), 0], target[:, 0].sort().values)


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (torch.ones(2, 3), "square"),
        (torch.ones(3), "square"),
        (torch.tensor([[0.0, torch.nan], [1.0, 1.0]]), "finite"),
        (torch.tensor([[0.0, torch.inf], [-torch.inf, 1.0]]), "finite"),
    ],
)
def test_bad_costs_are_refused(cost, words):
    with pytest.raises(ValueError, match=words):
        assign(cost)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_points_get_the_pairs_of_cpu_points(clouds):
    source, target = clouds(300)
    pairs = exact_pairs(source.cuda(), target.cuda())
    assert pairs.target_index.is_cuda
    assert torch.equal(pairs.target_index.cpu(), exact_pairs(source, target).target_index)
