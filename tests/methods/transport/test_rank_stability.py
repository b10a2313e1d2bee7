"""How far a slicer carries over: bounds for moves that keep the order of the scores."""

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.transport.ground import ground_cost
from sextant.methods.transport.sliced.lifted import lifted_plan
from sextant.methods.transport.sliced.slicers import SineMLP, draw_weights

SEEDS = st.integers(0, 10_000)


def pair(seed, n=12):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    target = 2 + torch.randn(n, 2, generator=generator, dtype=torch.float64)
    slicer = SineMLP(2, [16, 16]).double()
    draw_weights(slicer, generator)
    return source, target, slicer.requires_grad_(False), generator


def narrowest_gap(scores):
    return scores.sort().values.diff().min().item()


def nudged(points, slicer, generator):
    """Points moved as far as their scores stay within less than half the narrowest gap."""
    scores = slicer(points, None)
    step = torch.randn(points.shape, generator=generator, dtype=points.dtype)
    for _ in range(60):
        if (slicer(points + step, None) - scores).abs().max() < 0.49 * narrowest_gap(scores):
            return points + step
        step = step / 2
    raise AssertionError("no step was small enough")


def optimum(source, target):
    return float(ot.emd2([], [], ground_cost(source, target, "euclidean").numpy()))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_below_half_a_gap_the_plan_stays_and_costs_little_more(seed):
    source, target, slicer, generator = pair(seed)
    moved = [nudged(points, slicer, generator) for points in (source, target)]
    before = lifted_plan(slicer(source, None), slicer(target, None))
    after = lifted_plan(*(slicer(points, None) for points in moved))
    assert torch.equal(before.target_of_source(), after.target_of_source())
    drift = sum(
        (new - old).norm(dim=1).mean() for new, old in zip(moved, (source, target), strict=True)
    )
    assert drift > 0
    cost, later = before.cost(source, target, "euclidean"), after.cost(*moved, "euclidean")
    assert later <= cost + drift + 1e-12
    gap, later_gap = cost - optimum(source, target), later - optimum(*moved)
    assert later_gap <= gap + 2 * drift + 1e-9


def test_beyond_half_a_gap_the_plan_may_change():
    source = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
    target = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    crossed = torch.tensor([[0.06], [0.04]], dtype=torch.float64)
    plans = [lifted_plan(points[:, 0], target[:, 0]) for points in (source, crossed)]
    assert not torch.equal(plans[0].target_of_source(), plans[1].target_of_source())


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100.0))
def test_a_common_shift_and_scale_carry_over_exactly(seed, scale):
    source, target, slicer, generator = pair(seed)
    shift = torch.randn(2, generator=generator, dtype=torch.float64)
    plan = lifted_plan(slicer(source, None), slicer(target, None))
    moved = [scale * points + shift for points in (source, target)]
    back = lifted_plan(*(slicer((points - shift) / scale, None) for points in moved))
    assert torch.equal(plan.target_of_source(), back.target_of_source())
    assert float(back.cost(*moved, "euclidean")) == pytest.approx(
        scale * float(plan.cost(source, target, "euclidean"))
    )
