"""Laws, rotations, random subsets and the stored shapes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.contracts import Streams
from sextant.data import DataFolder
from tasks.alignment.clouds import (
    ShiftedMoons,
    SideStreams,
    drift_source,
    read_shapes,
    rotated,
    sampled,
)


def test_the_moons_lie_on_three_times_the_circles_of_scikit_learn_minus_one():
    points = ShiftedMoons().draw(500, Streams(0).generator("x"))
    unit = (points.double() + 1) / 3
    upper = (unit.norm(dim=1) - 1).abs()
    lower = ((unit - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    on_upper, on_lower = upper < 1e-5, lower < 1e-5
    assert bool((on_upper | on_lower).all())
    assert 180 < int(on_upper.sum()) < 320
    assert bool((unit[on_upper, 1] > -1e-5).all())
    assert bool((unit[on_lower, 1] < 0.5 + 1e-5).all())
    make_moons = pytest.importorskip("sklearn.datasets").make_moons
    theirs = 3 * make_moons(2000, noise=None)[0] - 1
    many = ShiftedMoons().draw(20000, Streams(1).generator("x")).numpy()
    np.testing.assert_allclose(many.mean(0), theirs.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(many.T), np.cov(theirs.T), atol=0.12)


def test_laws_name_themselves_and_refuse_bad_shifts():
    assert repr(ShiftedMoons()) == "ShiftedMoons(noise=0.0, scale=3.0, shift=(0.5, -0.25))"
    assert ShiftedMoons(shift=[0.5, -0.25]) == ShiftedMoons()
    assert drift_source().radius == 5
    assert drift_source().std ** 2 == pytest.approx(0.1)
    for shift in ([1.0], [0.0, math.nan]):
        with pytest.raises(ValueError, match="shift must be two finite numbers"):
            ShiftedMoons(shift=shift)
    with pytest.raises(ValueError, match="scale must be positive"):
        ShiftedMoons(scale=0)


def test_a_quarter_turn_takes_the_first_axis_to_the_second():
    points = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    expected = torch.tensor([[0.0, 1.0], [-2.0, 0.0]])
    torch.testing.assert_close(rotated(points, math.pi / 2), expected, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-7, 7), seed=st.integers(0, 9))
def test_rotations_keep_distances_and_add_up(angle, seed):
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = rotated(points, angle)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(points, points))
    torch.testing.assert_close(rotated(turned, 0.3), rotated(points, angle + 0.3))


@settings(max_examples=20, deadline=None)
@given(available=st.integers(1, 20), clouds=st.integers(1, 4), seed=st.integers(0, 9))
def test_samples_are_different_points_of_their_own_cloud(available, clouds, seed):
    places = torch.arange(clouds * available).float().reshape(clouds, available, 1)
    count = 1 + seed % available
    drawn = sampled(places, count, Streams(seed).generator("x"))
    assert drawn.shape == (clouds, count, 1)
    for cloud, chosen in zip(places, drawn, strict=True):
        values = chosen.flatten().tolist()
        assert len(set(values)) == count
        assert set(values) <= set(cloud.flatten().tolist())


def test_every_point_is_sampled_equally_often_in_every_place():
    places = torch.arange(6.0)[None, :, None].expand(6000, -1, -1)
    drawn = sampled(places, 3, Streams(0).generator("x"))[..., 0].long()
    for place in range(3):
        counts = torch.bincount(drawn[:, place], minlength=6)
        assert (counts - 1000).abs().max() < 150
    with pytest.raises(ValueError, match=r"points must lie in 1\.\.6, got 7"):
        sampled(places, 7, torch.Generator())


def test_sides_have_streams_of_their_own():
    streams = Streams(3)
    draws = [
        torch.rand(4, generator=source.generator("data-order", 2))
        for source in (streams, SideStreams(streams, "source"), SideStreams(streams, "target"))
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    again = torch.rand(4, generator=SideStreams(Streams(3), "target").generator("data-order", 2))
    assert torch.equal(again, draws[2])


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    np.savez(
        tmp_path / "train_1024.npz",
        points=np.zeros((3, 1000, 3), np.int16),
        label=np.zeros(3, np.int8),
        classes=np.array(["chair"]),
    )
    folder = DataFolder("modelnet10", tmp_path, "cache", "0123456789ab", "ModelNet10")
    with pytest.raises(ValueError, match=r"train shapes must be \(n, 1024, 3\)"):
        read_shapes(folder)
