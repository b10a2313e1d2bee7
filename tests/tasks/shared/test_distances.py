"""Wasserstein and Frechet distances against closed forms and other solvers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from tasks.shared.distances import frechet_distance, wasserstein2


@settings(max_examples=20, deadline=None)
@given(n=st.sampled_from([1, 2, 17, 64]), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_w2_equals_the_best_assignment(n, d, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, d))
    cost = cdist(a, b, "sqeuclidean")
    best = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein2(a, b, squared=True) == pytest.approx(best, rel=1e-9)
    assert wasserstein2(a, b) == pytest.approx(math.sqrt(best), rel=1e-9)
    assert wasserstein2(b, a) == pytest.approx(math.sqrt(best), rel=1e-9)


def test_w2_of_unequal_counts_weighs_every_point_equally():
    # Half of the mass of the single point goes to each of the two, at distances 1 and 3.
    assert wasserstein2([[0.0]], [[1.0], [3.0]], squared=True) == pytest.approx(5.0)


def test_w2_in_one_dimension_sorts():
    a, b = np.random.default_rng(0).normal(size=(2, 300, 1))
    sorted_cost = ((np.sort(a, 0) - np.sort(b, 0)) ** 2).mean()
    assert wasserstein2(a, b, squared=True) == pytest.approx(sorted_cost, rel=1e-9)


def test_w2_of_a_translate_is_the_shift_and_of_a_permutation_is_zero():
    a = np.random.default_rng(0).normal(size=(400, 2))
    assert wasserstein2(a, a + np.array([3.0, 4.0])) == pytest.approx(5.0, rel=1e-9)
    assert wasserstein2(a, a[::-1]) == 0
    assert wasserstein2(torch.from_numpy(a).float() + 300, a + 303) == pytest.approx(
        3 * math.sqrt(2), rel=1e-4
    )


def test_w2_of_two_gaussians_meets_the_closed_form():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 1500, 2)) * [[[1.0, 1.0]], [[2.0, 0.5]]] + [[[0, 0]], [[4, 0]]]
    closed = math.sqrt(16 + 1.0 + 0.25)
    assert wasserstein2(a, b) == pytest.approx(closed, rel=0.03)


def gaussian_frechet(m1, s1, m2, s2):
    return ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)


@pytest.mark.parametrize("d", [1, 2, 6, 30])
def test_frechet_equals_the_formula_on_fitted_gaussians(d):
    generator = np.random.default_rng(d)
    mix = generator.normal(size=(2, d, d))
    a = generator.normal(size=(200, d)) @ mix[0]
    b = generator.normal(size=(150, d)) @ mix[1] + 1
    expected = gaussian_frechet(
        a.mean(0), np.cov(a.T).reshape(d, d), b.mean(0), np.cov(b.T).reshape(d, d)
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_scaled_and_moved_copies_is_exact():
    # S_b = 9 S_a, so the distance is |shift|^2 + (3 - 1)^2 tr S_a.
    a = np.random.default_rng(0).normal(size=(50, 4))
    spread = np.trace(np.cov(a.T))
    shift = 2.0 * a.mean(0) + 5
    assert frechet_distance(a, 3 * a + 5) == pytest.approx((shift**2).sum() + 4 * spread, rel=1e-10)


@pytest.mark.parametrize("n", [2, 10, 500])
def test_frechet_of_identical_sets_is_zero_even_with_dead_features(n):
    a = np.maximum(np.random.default_rng(n).normal(size=(n, 64)) * 10 + 300, 0)
    a[:, ::2] = 0
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, a[np.random.default_rng(0).permutation(n)]) < 1e-9


@pytest.mark.parametrize("distance", [wasserstein2, frechet_distance])
@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), "sample a"),
        (np.zeros((3, 2)), np.zeros(3), "sample b"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "finite"),
        (np.zeros((3, 2)), np.zeros((3, 4)), "dimension"),
    ],
)
def test_bad_samples_are_refused(distance, a, b, complaint):
    with pytest.raises(ValueError, match=complaint):
        distance(a, b)


def test_an_unsolved_transport_is_an_error(monkeypatch):
    monkeypatch.setattr("tasks.shared.distances.MAXIMUM_PIVOTS", 1)
    a, b = np.random.default_rng(0).normal(size=(2, 100, 2))
    with pytest.raises(RuntimeError, match="not solved"):
        wasserstein2(a, b)
