"""The laws of the plane: moments, supports, balance, and agreement with scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp, kstest
from sklearn.datasets import make_moons

from tasks.shared.plane import Checkerboard, EightGaussians, StandardNormal, TwoMoons

LAWS = [StandardNormal(), EightGaussians(), TwoMoons(), Checkerboard()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mode_of(law, points):
    """The mode a point lies in, by geometry alone."""
    if isinstance(law, EightGaussians):
        angle = torch.atan2(points[:, 1], points[:, 0])
        return (angle / (math.pi / 4)).round().long() % 8
    if isinstance(law, Checkerboard):
        tile = ((points + law.half_width) / (2 * law.half_width) * law.tiles).floor().long()
        return tile[:, 1] * law.tiles + tile[:, 0]
    # The arcs of two noiseless moons are told apart by their distance to the two centres.
    points = points / law.scale + torch.tensor([0.5, 0.25])
    to_upper = (points.norm(dim=1) - 1).abs()
    to_lower = ((points - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    return (to_lower < to_upper).long()


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("n", [0, 1, 2, 17, 256])
def test_shapes_types_and_seeds(law, n):
    for draw in (law.draw, law.draw_balanced):
        points = draw(n, seeded())
        assert points.shape == (n, 2)
        assert points.dtype == torch.float32
        assert torch.equal(points, draw(n, seeded()))
    assert not torch.equal(law.draw(8, seeded(1)), law.draw(8, seeded(2)))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 9), which=st.sampled_from([0, 1, 2]))
def test_balanced_counts_differ_by_at_most_one(n, seed, which):
    law = [EightGaussians(std=0.05), TwoMoons(noise=0.0), Checkerboard()][which]
    _, counts = mode_of(law, law.draw_balanced(n, seeded(seed))).unique(return_counts=True)
    assert counts.max() - counts.min() <= 1
    assert len(counts) == min(n, law.modes)


@pytest.mark.parametrize("law", [EightGaussians(std=0.05), TwoMoons(noise=0.0), Checkerboard()])
def test_independent_draws_choose_modes_uniformly(law):
    _, counts = mode_of(law, law.draw(8000, seeded())).unique(return_counts=True)
    assert len(counts) == law.modes
    assert chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("radius", "std"), [(2.0, 0.08), (5.0, 0.5)])
def test_eight_gaussians_have_their_means_and_spread(radius, std):
    law = EightGaussians(radius, std)
    points = law.draw_balanced(16000, seeded())
    angles = 2 * math.pi * torch.arange(16000).remainder(8) / 8
    rest = points - radius * torch.stack((angles.cos(), angles.sin()), dim=1)
    assert rest.std() == pytest.approx(std, rel=0.02)
    assert rest.reshape(-1, 8, 2).mean(0).abs().max() < 5 * std / math.sqrt(2000)
    assert kstest(rest[:, 0].numpy() / std, "norm").pvalue > 1e-3


def test_moon_curves_are_those_of_scikit_learn():
    points, moon = make_moons(200, shuffle=False, noise=None)
    angle = torch.linspace(0, math.pi, 100).repeat(2)
    ours = TwoMoons.curve(torch.from_numpy(moon), angle)
    np.testing.assert_allclose(ours.numpy(), points - [0.5, 0.25], atol=1e-6)


def distance_to_circles(points):
    """How far points lie from the nearer of the two moons' circles; noise alone moves them."""
    points = points / 1.6 + [0.5, 0.25]
    upper = abs(np.linalg.norm(points, axis=1) - 1)
    lower = abs(np.linalg.norm(points - [1.0, 0.5], axis=1) - 1)
    return np.minimum(upper, lower)


def test_two_moons_follow_the_law_of_scikit_learn():
    theirs = 1.6 * (make_moons(20000, noise=0.08, random_state=0)[0] - [0.5, 0.25])
    ours = TwoMoons(noise=0.08, scale=1.6).draw(20000, seeded()).numpy()
    for direction in [(1, 0), (0, 1), (0.6, 0.8), (0.8, -0.6)]:
        assert ks_2samp(ours @ direction, theirs @ direction).pvalue > 1e-3
    assert ks_2samp(distance_to_circles(ours), distance_to_circles(theirs)).pvalue > 1e-3
    # Noise that is not scaled with the rest would be seen.
    wrong = TwoMoons(noise=0.08 / 1.6, scale=1.6).draw(20000, seeded()).numpy()
    assert ks_2samp(distance_to_circles(wrong), distance_to_circles(theirs)).pvalue < 1e-9


@pytest.mark.parametrize(("tiles", "half_width"), [(4, 2.0), (2, 1.0), (6, 3.0)])
def test_checkerboard_fills_every_second_tile_evenly(tiles, half_width):
    law = Checkerboard(tiles, half_width)
    points = law.draw(20000, seeded())
    assert points.abs().max() <= half_width
    place = (points + half_width) / (2 * half_width) * tiles
    assert (place.floor().sum(1) % 2 == 0).all()
    inside = place - place.floor()
    for axis in (0, 1):
        assert kstest(inside[:, axis].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: StandardNormal(0), "dimension"),
        (lambda: EightGaussians(radius=0), "radius"),
        (lambda: EightGaussians(std=-1), "std"),
        (lambda: TwoMoons(noise=float("nan")), "noise"),
        (lambda: TwoMoons(scale=0), "scale"),
        (lambda: Checkerboard(tiles=3), "tiles"),
        (lambda: Checkerboard(half_width=float("inf")), "half_width"),
    ],
)
def test_bad_scales_are_refused_by_name(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_the_name_of_a_law_holds_every_scale():
    assert repr(EightGaussians(3.0, 0.1)) == "EightGaussians(radius=3.0, std=0.1)"
