import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sextant.tables.statistics import (
    chance_of_falling_short,
    mean,
    one_sided,
    refuted,
    sample_std,
    share_bounds,
    t_cdf,
    t_quantile,
)

numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 8, 9, 30, 99, 100])
def test_t_distribution_is_scipys(dof):
    for t in (-40.0, -3.0, -0.1, 0.0, 0.5, 2.0, 12.0, 1e8, math.inf):
        assert t_cdf(t, dof) == pytest.approx(stats.t.cdf(t, dof), abs=1e-13)
    for probability in (0.001, 0.05, 0.5, 0.9, 0.95, 0.975, 0.999):
        expected = stats.t.ppf(probability, dof)
        assert t_quantile(probability, dof) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_textbook_quantiles():
    assert t_quantile(0.95, 4) == pytest.approx(2.132, abs=5e-4)
    assert t_quantile(0.95, 1) == pytest.approx(6.314, abs=5e-4)


@given(numbers)
def test_mean_and_spread_are_those_of_the_standard_library(values):
    assert mean(values) == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    assert sample_std(values) == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9, unique=True))
def test_the_lower_bound_is_the_paired_one_sided_test_of_scipy(values):
    interval = one_sided(values)
    p_above = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    p_below = stats.ttest_1samp(values, 0.0, alternative="less").pvalue
    if math.isfinite(p_above) and min(abs(p_above - 0.05), abs(p_below - 0.05)) > 1e-6:
        assert (interval.lower > 0) == (p_above < 0.05)
        assert (interval.upper < 0) == (p_below < 0.05)


def test_equal_values_are_judged_by_their_number():
    assert one_sided([0.1] * 4) is None
    many = one_sided([0.1] * 5)
    assert many.lower == many.upper == many.mean == pytest.approx(0.1)
    assert chance_of_falling_short([-1.0] * 5, 0.0) == 0.5**5
    assert chance_of_falling_short([1.0] * 5, 0.0) == 1.0


@given(values=st.lists(st.floats(-10, 10), min_size=2, max_size=8), edge=st.floats(-5, 5))
def test_the_chance_of_falling_short_is_that_of_scipy(values, edge):
    if max(values) - min(values) > 1e-6:
        expected = stats.ttest_1samp(values, edge, alternative="less").pvalue
        assert chance_of_falling_short(values, edge) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 50), (3, 50), (50, 50), (2999, 6000), (1, 1), (7, 10**6)]
)
def test_share_bounds_are_those_of_clopper_and_pearson(successes, n):
    test = stats.binomtest(successes, n)
    upper = test.proportion_ci(0.90, method="exact").high
    lower = test.proportion_ci(0.90, method="exact").low
    assert share_bounds(successes, n) == pytest.approx((lower, upper), abs=1e-9)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="5 of 3"):
        share_bounds(5, 3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_refutes_a_prefix_of_the_sorted_chances(chances):
    falls = refuted(chances)
    kept = [c for c, fell in zip(chances, falls, strict=True) if not fell]
    fallen = sorted(c for c, fell in zip(chances, falls, strict=True) if fell)
    assert all(c <= 0.05 / (len(chances) - k) for k, c in enumerate(fallen))
    if kept:
        assert min(kept) >= max(fallen, default=0.0)
        assert min(kept) > 0.05 / len(kept)


def test_one_value_has_no_spread_and_no_interval():
    assert sample_std([3.0]) is None
    assert one_sided([3.0]) is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean([]), "values must hold at least one number, got none"),
        (lambda: t_cdf(1.0, 0), "dof must be a whole number >= 1, got 0"),
        (lambda: t_cdf(math.nan, 3), "t must be a number, got nan"),
        (lambda: t_quantile(1.0, 3), "probability must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(caught.value) == sentence
