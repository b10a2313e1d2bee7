"""Fitting a slicer to a pair, and the plan a user gets from it."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sextant.methods.transport.sliced.fitting import Fit, fit_slicer, min_sliced_plan
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.slicers import LinearSlicer, SineMLP


def moons(n, seed=0):
    """Eight clusters on a circle and a bent line, (n, 2) float64 each."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.randint(8, (n,), generator=generator) * (torch.pi / 4)
    source = 2 * torch.stack((angles.cos(), angles.sin()), 1).double()
    source += 0.2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    line = torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1
    return source, torch.stack((line, line.square()), 1)


def exact(source, target, cost="sqeuclidean", weights=(None, None)):
    matrix = ot.dist(source.numpy(), target.numpy(), metric=cost)
    shares = [np.array([]) if w is None else (w / w.sum()).numpy() for w in weights]
    return ot.emd2(*shares, matrix)


def sine(hidden=(8, 8)):
    torch.manual_seed(0)
    return SineMLP(2, list(hidden))


class Spy:
    """An objective that pulls nowhere and remembers what it was shown."""

    cost = "sqeuclidean"

    def __init__(self) -> None:
        self.seen = []

    def __call__(self, slicer, source, target, context, generator):
        assert context is None
        self.seen.append((source, target))
        return slicer(source, None).sum() * 0


class Uphill(SoftPermutation):
    """An objective that makes plans dearer."""

    def __call__(self, slicer, source, target, context, generator):
        return -super().__call__(slicer, source, target, context, generator)


def hard_cost(slicer, source, target):
    """Matching equal ranks, written out."""
    orders = [slicer(points, None).argsort().detach() for points in (source, target)]
    return (source[orders[0]] - target[orders[1]]).square().sum(1).mean().item()


def test_fitting_lowers_the_cost_towards_the_exact_one():
    source, target = (points.float() for points in moons(64))
    slicer = sine((16, 16))
    fit = fit_slicer(source, target, slicer, SoftPermutation("sqeuclidean"), 120, 5e-3)
    least = exact(source, target)
    first = fit.curve[0][1]
    assert least <= fit.cost < least + 0.25 * (first - least)
    assert [iteration for iteration, _ in fit.curve] == [*range(0, 120, 20), 120]
    assert fit.cost == min(cost for _, cost in fit.curve)
    assert hard_cost(slicer, source, target) == pytest.approx(fit.cost, rel=1e-5)


def test_rollback_restores_the_best_weights_not_the_last():
    source, target = (points.float() for points in moons(30))
    settings = {"objective": Uphill("sqeuclidean"), "iterations": 30, "learning_rate": 0.02}
    fits, ends = {}, {}
    for keep in ("best", "last"):
        slicer = sine()
        fits[keep] = fit_slicer(source, target, slicer, keep=keep, evaluate_every=1, **settings)
        ends[keep] = hard_cost(slicer, source, target)
    assert fits["best"].curve == fits["last"].curve
    lowest, last = min(cost for _, cost in fits["best"].curve), fits["best"].curve[-1][1]
    assert last > lowest + 0.1
    assert fits["best"].cost == lowest == pytest.approx(ends["best"], rel=1e-5)
    assert fits["last"].cost == last == pytest.approx(ends["last"], rel=1e-5)


def test_small_equal_clouds_are_used_whole():
    source, target = (points.float() for points in moons(20))
    spy = Spy()
    fit_slicer(source, target, sine(), spy, 3, batch_size=20)
    assert len(spy.seen) == 3
    assert all(torch.equal(seen[0][0], source) for seen in spy.seen)
    assert all(torch.equal(seen[1][0], target) for seen in spy.seen)


@pytest.mark.parametrize(("n", "m", "batch"), [(20, 20, 8), (20, 13, 512), (6, 30, 8)])
def test_larger_or_unequal_clouds_are_drawn_independently(n, m, batch):
    source = torch.arange(n)[:, None].expand(n, 2).float()
    target = torch.arange(m)[:, None].expand(m, 2).float()
    spy, steps = Spy(), 300
    fit_slicer(source, target, sine(), spy, steps, batch_size=batch, evaluate_every=steps)
    size = min(n, m, batch)
    rows = [torch.stack([seen[side][0, :, 0] for seen in spy.seen]).long() for side in (0, 1)]
    for drawn, count in zip(rows, (n, m), strict=True):
        assert drawn.shape == (steps, size)
        assert all(len(set(row)) == size for row in drawn.tolist())
        counts = drawn.flatten().bincount(minlength=count) / (steps * size)
        assert (counts - 1 / count).abs().max() < 0.35 / count
    # Position k of the one says nothing about position k of the other.
    joint = torch.stack([side.flatten().double() for side in rows])
    assert torch.corrcoef(joint)[0, 1].abs() < 0.1


def test_weighted_clouds_are_drawn_by_weight():
    source, target = torch.arange(4.0)[:, None].expand(4, 2), torch.randn(4, 2)
    weights, spy = torch.tensor([1.0, 0.0, 2.0, 5.0]), Spy()
    fit_slicer(source, target, sine(), spy, 500, evaluate_every=500, source_weights=weights)
    drawn = torch.stack([seen[0][0, :, 0] for seen in spy.seen]).long().flatten()
    counts = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(counts, weights / 8, rtol=0, atol=0.04)
    assert counts[1] == 0
    uniform = torch.stack([seen[1][0] for seen in spy.seen]).flatten(0, 1)
    assert len(uniform.unique(dim=0)) == 4


def test_equal_generators_give_equal_fits():
    source, target = (points.float() for points in moons(40))
    slicers = [sine(), sine()]
    fits = []
    for slicer, seed in zip(slicers, (3, 999), strict=True):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(4)
        fits.append(fit_slicer(source, target, slicer, None, 9, batch_size=16, generator=generator))
    assert fits[0] == fits[1]
    assert isinstance(fits[0], Fit)
    for one, other in zip(*(slicer.parameters() for slicer in slicers), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("slicer", ["mlp", "linear", "set_transformer"])
@pytest.mark.parametrize("cost", ["euclidean", "sqeuclidean"])
def test_a_plan_of_any_kind_is_a_plan(slicer, cost):
    source, target = moons(20)[0], moons(13, 1)[1]
    weights = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = min_sliced_plan(source, target, slicer, cost, None, weights, iterations=3)
    dense = found.plan.dense()
    torch.testing.assert_close(dense.sum(1), torch.full((20,), 0.05, dtype=torch.float64))
    torch.testing.assert_close(dense.sum(0), weights / weights.sum())
    assert len(found.plan.mass) <= 20 + 13 - 1
    matrix = ot.dist(source.numpy(), target.numpy(), metric=cost)
    assert found.cost == pytest.approx((dense.numpy() * matrix).sum(), rel=1e-9)
    assert found.cost >= exact(source, target, cost, (torch.ones(20), weights)) - 1e-9
    again = found.slicer.transfer(source, target, None, weights)
    assert torch.equal(again.plan.dense(), dense)
    assert again.cost == found.cost


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_on_the_line_a_linear_slice_is_exact(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    target = 3 * torch.randn(m, 1, generator=generator, dtype=torch.float64) - 1
    found = min_sliced_plan(source, target, "linear", iterations=0, seed=seed)
    assert found.cost == pytest.approx(exact(source, target), abs=1e-9)


def test_more_than_a_direction_is_learned():
    source, target = moons(64)
    curved = min_sliced_plan(source, target, iterations=120)
    straight = min_sliced_plan(source, target, "linear", iterations=120)
    projections = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)).double()
    projections = (projections / projections.norm(dim=0)).numpy()
    searched = ot.sliced.min_sliced_transport_plan(
        source.numpy(), target.numpy(), projections=projections, metric="sqeuclidean"
    )[1]
    least = exact(source, target)
    assert least <= curved.cost < searched <= straight.cost + 1e-2
    assert curved.cost - least < 0.5 * (searched - least)


def test_arrays_tensors_and_seeds():
    source, target = moons(24)
    settings = {"iterations": 5, "cost": "euclidean"}
    first = min_sliced_plan(source, target, **settings)
    torch.manual_seed(99)
    arrays = min_sliced_plan(source.numpy(), target.numpy(), **settings)
    assert torch.equal(first.plan.dense(), arrays.plan.dense())
    assert first.cost == arrays.cost
    np.testing.assert_array_equal(first.slicer.scores(source), arrays.slicer.scores(source.numpy()))
    other = min_sliced_plan(source, target, seed=1, **settings)
    assert not torch.equal(first.plan.dense(), other.plan.dense())


@pytest.mark.parametrize("slicer", ["mlp", "set_transformer"])
def test_units_do_not_matter(slicer):
    """Moving both clouds together or measuring them in other units changes no plan."""
    source, target = moons(24)
    target = target[:20]
    shift = torch.tensor([700.0, -30.0], dtype=torch.float64)
    first = min_sliced_plan(source, target, slicer, iterations=6)
    second = min_sliced_plan(source * 50 + shift, target * 50 + shift, slicer, iterations=6)
    torch.testing.assert_close(first.plan.dense(), second.plan.dense())
    assert second.cost == pytest.approx(2500 * first.cost, rel=1e-9)
    middle = (source.mean(0) + target.mean(0)) / 2
    torch.testing.assert_close(first.slicer.centre, middle)
    torch.testing.assert_close(second.slicer.centre, middle * 50 + shift)
    spread = [(points - middle).square().sum(1).mean().item() / 2 for points in (source, target)]
    assert first.slicer.scale == pytest.approx(np.sqrt(np.mean(spread)))


def test_a_fitted_slicer_sees_other_clouds_in_its_own_units():
    """Scores are a field in space: they do not follow a cloud that moves."""
    source, target = moons(24)
    fitted = min_sliced_plan(source, target, iterations=6).slicer
    points = torch.cat((source, source + 3.0))
    scores = fitted.scores(points)
    torch.testing.assert_close(scores[:24], fitted.scores(source))
    standardised = ((points - fitted.centre) / fitted.scale).float()
    torch.testing.assert_close(scores, fitted.slicer(standardised, None))
    assert not fitted.slicer.training
    new = fitted.transfer(source[:9] + 3.0, target[:9])
    assert new.plan.shape == (9, 9)
    assert torch.equal(new.plan.source_index, scores[24:33].argsort(descending=True))
    assert new.slicer is fitted


def test_transfer_to_fresh_samples_is_nearly_as_good():
    fitted = min_sliced_plan(*moons(128), iterations=120)
    source, target = moons(128, seed=1)
    transferred = fitted.slicer.transfer(source, target)
    least = exact(source, target)
    random = ot.dist(source.numpy(), target.numpy()).mean()
    assert least <= transferred.cost < least + 0.35 * (random - least)


def test_a_module_of_ones_own_is_copied():
    source, target = moons(24)
    own = sine()
    before = [parameter.detach().clone() for parameter in own.parameters()]
    found = min_sliced_plan(source, target, own, iterations=4)
    for parameter, kept in zip(own.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
        assert parameter.requires_grad
    assert own.training
    assert found.slicer.slicer is not own

    class Radius(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.tensor(1.0))

        def forward(self, points, context=None):
            return points.norm(dim=-1) ** self.power

    found = min_sliced_plan(source, target, Radius(), iterations=2)
    radii = (source - found.slicer.centre).norm(dim=1)
    assert torch.equal(found.plan.source_index, radii.argsort(descending=True))


def test_one_point_each():
    found = min_sliced_plan(torch.ones(1, 2), torch.ones(1, 2), iterations=2)
    assert found.cost == 0.0
    assert found.plan.target_of_source().tolist() == [0]


def test_the_bar_shows_the_cost(capsys):
    source, target = moons(16)
    quiet = min_sliced_plan(source, target, iterations=3)
    assert capsys.readouterr().out == ""
    shown = min_sliced_plan(source, target, iterations=3, progress=True)
    assert "3/3" in capsys.readouterr().out
    assert torch.equal(quiet.plan.dense(), shown.plan.dense())


def test_bad_settings_are_named():
    source, target = (points.float() for points in moons(6))
    bad = {
        "iterations": -1,
        "learning_rate": 0.0,
        "weight_decay": -1.0,
        "batch_size": 0,
        "evaluate_every": 0,
        "keep": "first",
    }
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name):
            fit_slicer(source, target, sine(), Spy(), **{name: value})


def test_bad_clouds_are_named():
    class Doubled(SineMLP):
        def forward(self, points, context=None):
            return super().forward(points, context).repeat(2)

        def __init__(self) -> None:
            super().__init__(2)

    source, target = moons(6)
    nan = source.clone()
    nan[2, 1] = torch.nan
    for kind, name, arguments in (
        (TypeError, "source must be a tensor", ([[1.0, 2.0]], target)),
        (TypeError, "target must be a tensor", (source, target.long())),
        (ValueError, "source must have shape", (source[0], target)),
        (ValueError, "target must have shape", (source, target[:0])),
        (ValueError, "source has NaN", (nan, target)),
        (ValueError, "equally many coordinates", (source, target[:, :1])),
        (ValueError, "slicer must be a module or one of", (source, target, "cnn")),
        (ValueError, "slicer must be for points of 2", (source, target, LinearSlicer(3))),
        (ValueError, "one score a point", (source, target, Doubled())),
        (TypeError, "slicer must be called as", (source, target, nn.Linear(2, 1))),
        (ValueError, "cost must be", (source, target, "mlp", "cosine")),
        (ValueError, "source_weights must have", (source, target, "mlp", "euclidean", source)),
        (ValueError, "not negative", (source, target, "mlp", "euclidean", -(source[:, 0] ** 2))),
        (TypeError, "source_weights must be", (source, target, "mlp", "euclidean", [1.0])),
    ):
        with pytest.raises(kind, match=name):
            min_sliced_plan(*arguments, iterations=1)
    fitted = min_sliced_plan(source, target, iterations=0).slicer
    with pytest.raises(ValueError, match="new_target must have 2 coordinates"):
        fitted.transfer(source, target[:, :1])
    with pytest.raises(ValueError, match="points must have 2 coordinates"):
        fitted.scores(source[:, :1])
