import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.contracts import Streams
from sextant.methods.flow.times import LogitNormal, Uniform, draw_intervals

LAWS = [Uniform(), LogitNormal(-0.4, 1.0), LogitNormal(-2.0, 2.0)]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(LAWS), st.floats(0, 1), st.integers(0, 99))
def test_order_bounds_and_share(law, share, seed):
    n = 4000
    r, t = draw_intervals(law, share, n, Streams(seed).generator("times"))
    assert r.shape == t.shape == (n,)
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())
    apart = (r < t).double().mean().item()
    # Five sigma: thirty examples are drawn, and a test that fails by chance teaches nothing.
    assert abs(apart - share) <= 5 * math.sqrt(share * (1 - share) / n) + 1e-3


def test_share_within_three_sigma():
    n, share = 20_000, 0.75
    r, t = draw_intervals(Uniform(), share, n, Streams(0).generator("times"))
    assert abs((r < t).double().mean() - share) < 3 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_extremes_are_exact(share):
    r, t = draw_intervals(Uniform(), share, 500, Streams(1).generator("times"))
    assert bool((r < t).all()) if share else torch.equal(r, t)


@pytest.mark.parametrize("mean", [-2.0, -0.4, 1.0])
def test_median_of_the_logit_normal(mean):
    times = LogitNormal(mean, 1.0)(40_000, Streams(0).generator("times"))
    assert times.median().item() == pytest.approx(1 / (1 + math.exp(-mean)), abs=0.01)


def test_sorted_draws_follow_the_law():
    _, t = draw_intervals(Uniform(), 0.5, 40_000, Streams(0).generator("times"))
    assert t.mean().item() == pytest.approx(2 / 3, abs=0.01)


def test_rows_are_alike_wherever_they_stand():
    n = 40_000
    r, t = draw_intervals(Uniform(), 0.75, n, Streams(0).generator("times"))
    apart = (r < t).double().view(8, -1).mean(1)
    assert (apart - 0.75).abs().max() < 4 * math.sqrt(0.75 * 0.25 / (n / 8))
    place = torch.arange(n).double()
    correlation = torch.corrcoef(torch.stack((place, t.double())))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n)


def test_same_generator_same_times():
    draws = [draw_intervals(Uniform(), 0.5, 9, Streams(4).generator("times", 7)) for _ in "ab"]
    assert torch.equal(torch.stack(draws[0]), torch.stack(draws[1]))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="std"):
        LogitNormal(0.0, 0.0)
    with pytest.raises(ValueError, match="share_r_below_t"):
        draw_intervals(Uniform(), 1.5, 3, Streams(0).generator("times"))
