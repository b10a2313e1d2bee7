"""Squared distances, and the rule that only rows are ever paired."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.transport.costs import centred, flat_clouds, squared_distances
from sextant.methods.transport.pairs import Pairs, in_batch_order, take_pairs


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_squared_distances_equal_the_sum_over_coordinates(n, m, d, seed):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64)
    target = torch.randn(m, d, generator=generator, dtype=torch.float64)
    expected = (source[:, None] - target[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(source, target), expected, rtol=0, atol=1e-12)


def test_float32_distances_survive_a_far_away_origin(clouds):
    source, target = clouds(64)
    expected = squared_distances(source, target)
    far = squared_distances((source + 300).float(), (target + 300).float())
    torch.testing.assert_close(far.double(), expected, rtol=0, atol=1e-3)
    naive = torch.addmm(
        (target + 300).float().square().sum(1)[None],
        (source + 300).float(),
        (target + 300).float().t(),
        alpha=-2.0,
    ) + (source + 300).float().square().sum(1, keepdim=True)
    assert (naive.double() - expected).abs().max() > 1e-2  # else this test shows nothing


def test_distances_of_a_cloud_to_itself_are_never_negative(clouds):
    source = clouds(200, 8)[0].float() * 1e3
    assert squared_distances(source, source).min() >= 0


def test_centring_moves_the_mean_to_zero(clouds):
    source, _ = clouds(50)
    torch.testing.assert_close(centred(source + 7).mean(0), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("source", "target", "error", "words"),
    [
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2), TypeError, "source must be"),
        ([[1.0]], torch.ones(1, 1), TypeError, "got list"),
        (torch.ones(0, 2), torch.ones(0, 2), ValueError, "n >= 1"),
        (torch.ones(3), torch.ones(3), ValueError, "shape"),
        (torch.ones(3, 2), torch.ones(4, 2), ValueError, "equally many"),
        (torch.ones(3, 2), torch.ones(3, 3), ValueError, "equally many"),
        (torch.full((2, 2), torch.nan), torch.ones(2, 2), ValueError, "source has NaN"),
        (torch.ones(2, 2), torch.full((2, 2), torch.inf), ValueError, "target has NaN"),
    ],
)
def test_bad_clouds_are_refused_by_name(source, target, error, words):
    with pytest.raises(error, match=words):
        flat_clouds(source, target)


def test_labels_follow_the_target_and_images_keep_their_shape():
    source, target = torch.rand(4, 1, 3, 3), torch.rand(4, 1, 3, 3)
    labels = torch.tensor([5, 6, 7, 8])
    order = torch.tensor([2, 0, 3, 1])
    e, x, y = take_pairs(in_batch_order(order), source, target, labels)
    assert torch.equal(e, source)
    assert torch.equal(x, target[order])
    assert y.tolist() == [7, 5, 8, 6]
    assert take_pairs(in_batch_order(order), source, target)[2] is None


@pytest.mark.parametrize(
    "projected",
    [
        torch.rand(4, 2),
        (torch.rand(4, 2), torch.rand(4, 2)),
        (torch.arange(4), torch.arange(4)),
        Pairs(torch.arange(4), torch.rand(4)),
        Pairs(torch.arange(4), torch.rand(4, 2)),
    ],
)
def test_barycentric_projections_are_rejected_by_type(projected):
    with pytest.raises(TypeError):
        take_pairs(projected, torch.rand(4, 2), torch.rand(4, 2))


def test_indices_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        take_pairs(Pairs(torch.arange(4), torch.arange(3)), torch.rand(4, 2), torch.rand(4, 2))
