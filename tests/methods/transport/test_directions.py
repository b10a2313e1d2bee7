"""Plans of straight slices against POT, and against one lifted plan a direction."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from sextant.methods.transport.sliced import directions as module
from sextant.methods.transport.sliced.directions import (
    expected_sliced,
    min_sliced,
    random_directions,
    sliced_costs,
)
from sextant.methods.transport.sliced.lifted import lifted_plan

COSTS = ("euclidean", "sqeuclidean")


def bank(count: int, d: int, seed: int = 0) -> torch.Tensor:
    return random_directions(count, d, torch.Generator().manual_seed(seed))


def pot_costs(source, target, rays, cost) -> torch.Tensor:
    """POT's one-dimensional plan of each direction, its cost in space from the dense matrix."""
    between = ot.dist(source.numpy(), target.numpy(), metric=cost)
    plans = (ot.emd_1d((source @ ray).numpy(), (target @ ray).numpy()) for ray in rays)
    return torch.tensor([(plan * between).sum() for plan in plans], dtype=torch.float64)


def test_directions_are_uniform_on_the_sphere_and_repeatable():
    rays = bank(20_000, 3)
    torch.testing.assert_close(rays.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    for axis in range(3):  # Archimedes: a coordinate of a uniform point of the sphere is uniform
        assert kstest(rays[:, axis].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert torch.equal(bank(5, 3), bank(5, 3))
    assert not torch.equal(bank(5, 3), bank(5, 3, seed=1))
    assert set(bank(50, 1).flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("d", [1, 2, 8])
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_best_plan_and_cost_equal_those_of_pot(clouds, monkeypatch, cost, d, chunk):
    monkeypatch.setattr(module, "CHUNK_SCORES", chunk)
    monkeypatch.setitem(module.CHUNK_COORDINATES, "cpu", chunk)
    source, target = clouds(40, d)
    rays = bank(30, d)
    plan, value, log = ot.sliced.min_sliced_transport_plan(
        source.numpy(), target.numpy(), projections=rays.t().numpy(), metric=cost, log=True
    )
    best = min_sliced(source, target, rays, cost)
    assert best.index == np.argmin(log["costs"])
    assert best.cost.item() == pytest.approx(float(value), rel=1e-12)
    torch.testing.assert_close(best.plan.dense(), torch.from_numpy(plan), rtol=0, atol=1e-16)
    torch.testing.assert_close(best.plan.cost(source, target, cost), best.cost)
    torch.testing.assert_close(
        sliced_costs(source, target, rays, cost), torch.from_numpy(log["costs"])
    )


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("n", "m"), [(40, 25), (12, 36)])
def test_unequal_clouds_equal_the_plans_of_each_direction(clouds, cost, n, m):
    # POT 0.9.7 weighs the entries of unequal clouds by the weights of other entries when it
    # computes costs, so it is asked for plans only.
    source, target = clouds(40, 3)
    source, target = source[:n], target[:m]
    rays = bank(20, 3)
    expected = pot_costs(source, target, rays, cost)
    torch.testing.assert_close(sliced_costs(source, target, rays, cost), expected)
    best = min_sliced(source, target, rays, cost)
    assert best.index == expected.argmin()
    ray = rays[best.index]
    torch.testing.assert_close(
        best.plan.dense(), lifted_plan(source @ ray, target @ ray).dense(), rtol=0, atol=1e-15
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(1, 3), st.integers(0, 1000))
def test_no_plan_costs_less_than_optimal_transport(n, m, d, seed):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64)
    target = torch.randn(m, d, generator=generator, dtype=torch.float64)
    for cost in COSTS:
        between = ot.dist(source.numpy(), target.numpy(), metric=cost)
        optimum = ot.emd2([], [], between)
        rays = bank(6, d)
        best = min_sliced(source, target, rays, cost)
        assert best.cost >= optimum - 1e-9
        spread = expected_sliced(source, target, rays, cost, 1.0)
        assert spread.cost(source, target, cost) >= best.cost - 1e-9
        if d == 1:  # sorting is optimal on the line
            assert best.cost.item() == pytest.approx(optimum, abs=1e-9)


def test_reordered_clouds_are_matched_at_no_cost(clouds):
    source, _ = clouds(50, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    best = min_sliced(source, source[order], bank(1, 3), "euclidean")
    assert best.cost == 0
    assert torch.equal(order[best.plan.target_of_source()], torch.arange(50))


@pytest.mark.parametrize("flip", [True, False])
def test_both_clouds_are_sorted_the_same_way_round(clouds, flip):
    # Sorting one cloud the other way would train and test the dearest plan on the line.
    source, _ = clouds(50, 2)
    target = source + torch.tensor([5.0, 0.0])
    ray = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    best = min_sliced(source, target, -ray if flip else ray, "sqeuclidean")
    assert best.cost.item() == pytest.approx(25.0)
    wrong = lifted_plan((source @ ray.t())[:, 0], -(target @ ray.t())[:, 0])
    assert wrong.cost(source, target, "sqeuclidean") > 26


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 5.0])
def test_expected_plan_equals_that_of_pot(clouds, cost, beta):
    source, target = clouds(40, 3)
    rays = bank(25, 3)
    plan, value = ot.sliced.expected_sliced_plan(
        source.numpy(), target.numpy(), projections=rays.t().numpy(), metric=cost, beta=beta
    )
    found = expected_sliced(source, target, rays, cost, beta)
    torch.testing.assert_close(found.dense(), torch.from_numpy(plan), rtol=0, atol=1e-15)
    assert found.cost(source, target, cost).item() == pytest.approx(float(value), rel=1e-12)
    flat = found.source_index * 40 + found.target_index
    assert len(flat.unique()) == len(flat) < 25 * 40


def test_expected_plan_of_unequal_clouds_is_the_weighted_sum_of_plans(clouds):
    source, target = clouds(30, 3)
    source = source[:20]
    rays = bank(7, 3)
    weights = torch.softmax(-2 * pot_costs(source, target, rays, "euclidean"), 0)
    plans = [ot.emd_1d((source @ ray).numpy(), (target @ ray).numpy()) for ray in rays]
    expected = sum(w * torch.from_numpy(plan) for w, plan in zip(weights, plans, strict=True))
    found = expected_sliced(source, target, rays, "euclidean", 2.0)
    torch.testing.assert_close(found.dense(), expected, rtol=0, atol=1e-15)
    rows, columns = found.marginals()
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / 20))
    torch.testing.assert_close(columns, torch.full_like(columns, 1 / 30))


def test_large_beta_leaves_the_best_plan(clouds):
    source, target = clouds(40, 3)
    rays = bank(25, 3)
    best = min_sliced(source, target, rays, "sqeuclidean")
    costs = [
        expected_sliced(source, target, rays, "sqeuclidean", beta)
        .cost(source, target, "sqeuclidean")
        .item()
        for beta in (0.0, 1.0, 10.0, 1e6)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(best.cost.item(), rel=1e-12)
    cold = expected_sliced(source, target, rays, "sqeuclidean", 1e6)
    torch.testing.assert_close(cold.dense(), best.plan.dense())
    assert len(cold.mass) == 40


def test_lengths_of_directions_do_not_matter_and_float32_is_kept(clouds):
    source, target = clouds(40, 3)
    rays = bank(25, 3)
    best = min_sliced(source, target, rays, "euclidean")
    longer = min_sliced(source, target, 7 * rays, "euclidean")
    assert torch.equal(best.plan.dense(), longer.plan.dense())
    single = min_sliced(source.float(), target.float(), rays, "euclidean")
    assert single.cost.dtype == torch.float32
    assert single.cost.item() == pytest.approx(best.cost.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"cost": "l1"}, ValueError, "cost must be"),
        ({"source": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "source"),
        ({"target": torch.zeros(3, 2).double()}, TypeError, "one dtype"),
        ({"target": torch.zeros(3, 1)}, ValueError, "target must have shape"),
        ({"target": torch.zeros(0, 2)}, ValueError, "target must have shape"),
        ({"directions": torch.zeros(0, 2)}, ValueError, "directions must have shape"),
        ({"source": torch.full((3, 2), torch.nan)}, ValueError, "source has NaN"),
        ({"directions": torch.full((3, 2), torch.inf)}, ValueError, "directions has NaN"),
    ],
)
def test_bad_input_is_refused_by_name(changes, error, words):
    good = {
        "source": torch.zeros(3, 2),
        "target": torch.ones(4, 2),
        "directions": torch.ones(5, 2),
        "cost": "euclidean",
    }
    with pytest.raises(error, match=words):
        min_sliced(**{**good, **changes})
    with pytest.raises(error, match=words):
        expected_sliced(**{**good, **changes}, beta=1.0)


def test_settings_outside_their_range_are_refused(clouds):
    for beta in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="beta"):
            expected_sliced(*clouds(3), bank(2, 2), "euclidean", beta)
    with pytest.raises(ValueError, match="count"):
        bank(0, 2)
    with pytest.raises(ValueError, match="dimension"):
        bank(2, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_plans_equal_cpu_plans(clouds):
    source, target = clouds(60, 3)
    rays = bank(20, 3)
    here = min_sliced(source, target[:45], rays, "euclidean")
    there = min_sliced(source.cuda(), target[:45].cuda(), rays, "euclidean")
    assert there.index == here.index
    torch.testing.assert_close(there.plan.dense().cpu(), here.plan.dense())
    spread = expected_sliced(source.cuda(), target.cuda(), rays, "euclidean", 3.0)
    torch.testing.assert_close(
        spread.dense().cpu(), expected_sliced(source, target, rays, "euclidean", 3.0).dense()
    )
