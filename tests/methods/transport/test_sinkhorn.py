"""Entropic plans against POT, their limits, and the failures of unstabilised Sinkhorn."""

import numpy as np
import ot
import pytest
import torch
from scipy.stats import chisquare

from sextant.methods.transport import sinkhorn
from sextant.methods.transport.costs import squared_distances
from sextant.methods.transport.exact import assign
from sextant.methods.transport.sinkhorn import sample_pairs, sinkhorn_plan


def pot_plan(cost: torch.Tensor, epsilon: float) -> torch.Tensor:
    a, b = (np.full(k, 1 / k) for k in cost.shape)
    plan = ot.bregman.sinkhorn_log(
        a, b, cost.double().numpy(), epsilon, numItermax=20_000, stopThr=1e-13
    )
    return torch.from_numpy(plan)


@pytest.mark.parametrize("n", [1, 2, 17, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plan_has_uniform_marginals_and_equals_pot(clouds, n, dtype):
    cost = squared_distances(*clouds(n))
    epsilon = 0.05 * cost.mean().item()
    plan = sinkhorn_plan(cost.to(dtype), epsilon, 2000)
    assert plan.dtype == dtype
    uniform = torch.full((n,), 1 / n, dtype=dtype)
    torch.testing.assert_close(plan.sum(1), uniform, rtol=1e-5, atol=0)
    torch.testing.assert_close(plan.sum(0), uniform, rtol=1e-4, atol=0)
    scaled = n * (plan.double() - pot_plan(cost, epsilon))
    assert scaled.abs().max() < (1e-5 if dtype == torch.float32 else 1e-10)


def test_plan_between_unequally_many_points_equals_pot(clouds):
    source, target = clouds(40)
    cost = squared_distances(source[:23], target)
    plan = sinkhorn_plan(cost, 0.2, 3000)
    assert (plan - pot_plan(cost, 0.2)).abs().max() < 1e-9


@pytest.mark.parametrize("shift", [3.0, 300.0])
def test_no_mass_is_lost_under_a_mean_shift(clouds, shift):
    source, target = clouds(128)
    cost = squared_distances(source, target + shift)
    unstabilised = torch.exp(-cost.float() / 0.05)
    assert (unstabilised.sum(1) == 0).any()  # the row divides by zero without stabilisation
    plan = sinkhorn_plan(cost, 0.05, 500)
    assert plan.sum().item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(plan, sinkhorn_plan(squared_distances(source, target), 0.05, 500))


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4])
def test_tiny_epsilon_keeps_every_row_and_finite_numbers(clouds, epsilon):
    cost = squared_distances(*clouds(64)).float()
    plan = sinkhorn_plan(cost, epsilon * cost.mean().item(), 100)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(1), torch.full((64,), 1 / 64), rtol=1e-4, atol=0)


def test_scalings_that_outgrow_the_kernel_are_absorbed(monkeypatch):
    # 6 of 20 source points but 14 of 20 target points stand on the left, so mass has to cross a gap
    # of more than 80 epsilon, where the first kernel has nothing but its floor.
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    cost = squared_distances(torch.cat([x[:6], x[6:] + 8]), torch.cat([x[:14], x[14:] + 8]))
    expected = pot_plan(cost, 0.5)

    def error() -> float:
        plan = sinkhorn_plan(cost.float(), 0.5, 20_000, tolerance=1e-5)
        return 20 * (plan.double() - expected).abs().max().item()

    assert error() < 1e-4
    monkeypatch.setattr(sinkhorn, "LARGEST_SCALING", float("inf"))
    assert error() > 1e-2  # without absorption


def test_cost_falls_to_the_exact_one_and_rises_to_the_mean(clouds):
    cost = squared_distances(*clouds(32))
    mean = cost.mean().item()
    values = [
        (sinkhorn_plan(cost, scale * mean, 20_000, tolerance=1e-8) * cost).sum().item()
        for scale in (2e-3, 1e-2, 5e-2, 0.3, 3.0, 1e4)
    ]
    exact = cost[torch.arange(32), assign(cost)].mean().item()
    assert values == sorted(values)
    assert values[0] == pytest.approx(exact, rel=1e-2)
    assert values[0] >= exact - 1e-9
    assert values[-1] == pytest.approx(mean, rel=1e-3)


def test_tolerance_stops_early_and_keeps_its_word(clouds):
    cost = squared_distances(*clouds(64))
    plan = sinkhorn_plan(cost, 0.05 * cost.mean().item(), 10_000, tolerance=1e-3)
    error = (plan.sum(0) * 64 - 1).abs().max()
    assert 1e-7 < error < 1e-3  # all iterations would have reached rounding error


def test_plan_follows_a_reordering_of_both_sides(clouds):
    cost = squared_distances(*clouds(17))
    rows = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(17, generator=torch.Generator().manual_seed(2))
    moved = sinkhorn_plan(cost[rows][:, columns], 0.3, 200)
    torch.testing.assert_close(moved, sinkhorn_plan(cost, 0.3, 200)[rows][:, columns])


def test_lost_mass_is_an_error():
    cost = torch.tensor([[0.0, 3e38], [3e38, 0.0]])
    with pytest.raises(FloatingPointError, match="off its mass"):
        sinkhorn_plan(cost, 1e-45, 10)


@pytest.mark.parametrize(
    ("cost", "settings", "error", "words"),
    [
        (torch.ones(2, 2, dtype=torch.int64), {}, TypeError, "floating-point"),
        (torch.ones(0, 2), {}, ValueError, "matrix with entries"),
        (torch.full((2, 2), torch.nan), {}, ValueError, "NaN"),
        (torch.ones(2, 2), {"epsilon": 0.0}, ValueError, "epsilon"),
        (torch.ones(2, 2), {"iterations": 0}, ValueError, "iterations"),
        (torch.ones(2, 2), {"tolerance": -1.0}, ValueError, "tolerance"),
    ],
)
def test_bad_input_is_refused_by_name(cost, settings, error, words):
    with pytest.raises(error, match=words):
        sinkhorn_plan(cost, **{"epsilon": 1.0, "iterations": 3, **settings})


def test_drawn_columns_follow_their_row():
    plan = torch.tensor([[0.1, 0.0, 0.3], [0.2, 0.4, 0.0]])
    many = plan.repeat_interleave(20_000, 0)
    index = sample_pairs(many, torch.Generator().manual_seed(0))
    counts = torch.stack(
        [index[:20_000].bincount(minlength=3), index[20_000:].bincount(minlength=3)]
    )
    assert counts[0, 1] == 0
    assert counts[1, 2] == 0
    assert chisquare(counts[0, [0, 2]], [5_000, 15_000]).pvalue > 1e-3
    assert chisquare(counts[1, [0, 1]], [20_000 / 3, 40_000 / 3]).pvalue > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_plan_equals_cpu_plan(clouds):
    cost = squared_distances(*clouds(64))
    plan = sinkhorn_plan(cost.cuda(), 0.2, 300)
    torch.testing.assert_close(plan.cpu(), sinkhorn_plan(cost, 0.2, 300))
    index = sample_pairs(plan, torch.Generator().manual_seed(0))
    assert torch.equal(index.cpu(), sample_pairs(plan.cpu(), torch.Generator().manual_seed(0)))
