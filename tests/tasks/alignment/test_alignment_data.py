"""Data modules: reproducible batches, the drift, pairs and blocks that every run is asked about."""

import math

import numpy as np
import pytest
import torch

from sextant import data
from sextant.contracts import Streams
from sextant.data import DataFolder
from sextant.data.sources import write_idx
from tasks.alignment.clouds import ShiftedMoons, drift_source
from tasks.alignment.data import BatchLadder, DriftData
from tasks.alignment.latents import LatentGroups
from tasks.alignment.shapes import CloudPairs, GaussianToShapes, ShapeClouds, balanced
from tasks.shared.plane import StandardNormal

CLASSES = ("chair", "sofa", "table")
COUNTS = {"train": (9, 4, 6), "test": (5, 3, 4)}


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """Stored shapes of three classes; shape k of a split has k in its second coordinate, the class
    in its third, and a different first coordinate for each of its points."""
    for split, counts in COUNTS.items():
        labels = np.repeat(np.arange(3, dtype=np.int8), counts)
        labels = labels[np.random.default_rng(0).permutation(len(labels))]
        points = np.zeros((len(labels), 1024, 3), np.int16)
        points[:, :, 0] = np.arange(1024)
        points[:, :, 1] = np.arange(len(labels))[:, None]
        points[:, :, 2] = labels[:, None]
        np.savez(tmp_path / f"{split}_1024.npz", points=points, label=labels, classes=CLASSES)
    found = DataFolder("modelnet10", tmp_path, "cache", "0123456789ab", "ModelNet10")
    monkeypatch.setattr("tasks.alignment.shapes.locate", lambda name: found)


class Halves:
    """A parent whose codes are the sums of the image's left and right half."""

    def load(self):
        return self

    def encode(self, images):
        return torch.stack((images[..., :14].sum((1, 2, 3)), images[..., 14:].sum((1, 2, 3))), 1)


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A small folder in the format of MNIST: 60 training and 30 test images, 10 classes."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for prefix, n in (("train", 60), ("t10k", 30)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", (n, 28, 28), [images.numpy().tobytes()])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (n,), [bytes(k % 10 for k in range(n))])
    found = DataFolder("mnist", folder, "cache", "ba9876543210", "MNIST")
    monkeypatch.setattr("tasks.shared.latents.locate", lambda name: found)


def begun(module, seed=0, parents=None):
    module.prepare(Streams(seed), parents or {})
    return module


def drift(seed=0, **changes):
    return begun(DriftData(**({"iterations_each": 3, "problems": 3, "points": 20} | changes)), seed)


def ladder(seed=0, **changes):
    settings = {"iterations_each": 3, "points": 32, "sizes": [4, 8, 16], "pool_points": 64}
    return begun(BatchLadder(**(settings | changes)), seed)


def pairs(seed=0, **changes):
    settings = {"pairs_per_step": 3, "steps": 9, "train_points": 16}
    return begun(CloudPairs("chair", "table", **(settings | changes)), seed)


def gaussians(seed=0, **changes):
    settings = {"pairs_per_step": 3, "steps": 9, "train_points": 16, "evaluation_pairs": 7}
    return begun(GaussianToShapes(**(settings | changes)), seed)


def clouds(seed=0, **changes):
    return begun(ShapeClouds(**({"batch_size": 4, "steps": 9, "points": 16} | changes)), seed)


def groups(seed=0, **changes):
    settings = {"steps": 9, "batch_size": 5, "evaluation_pairs": 3, "evaluation_points": 5}
    module = LatentGroups(**(settings | {"validation": 10} | changes))
    return begun(module, seed, {"autoencoder": Halves()})


def same(one, other):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("make", [drift, ladder, pairs, gaussians, clouds, groups])
def test_a_run_that_stopped_goes_on_with_the_same_batches(make, shapes, digits):
    whole = list(make().train_dataloader())
    assert len(whole) == 9
    resumed = make()
    resumed.first_step = 4
    rest = list(resumed.train_dataloader())
    assert len(rest) == 5
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not same(whole[0], make(seed=1).draw_batch(0))
    for tensor in whole[0]:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            assert tensor.dtype == torch.float32


@pytest.mark.parametrize("make", [drift, ladder])
def test_nothing_is_drawn_before_prepare(make):
    module = make()
    module._streams = None
    with pytest.raises(RuntimeError, match="prepare"):
        module.problem(0)


def test_the_drift_turns_by_a_quarter_and_shrinks_evenly():
    module = drift(problems=5, points=40)
    last = module.problem(4)
    for index in range(5):
        time = 1 - index / 4
        turn = torch.polar(torch.tensor(1.0), torch.tensor(time * math.pi / 2))
        for cloud, final in zip(module.problem(index), last, strict=True):
            base = torch.view_as_complex((final / 0.5).contiguous())
            expected = torch.view_as_real((0.5 + 0.2 * time) * base * turn)
            torch.testing.assert_close(cloud, expected, atol=1e-5, rtol=1e-5)
    radius = (last[0] / 0.5).norm(dim=1)
    assert abs(radius.mean() - 5) < 0.3


def test_drift_batches_are_the_whole_clouds_of_their_problem():
    module = drift()
    for step, problem in ((0, 0), (2, 0), (3, 1), (8, 2)):
        source, target, index = module.draw_batch(step)
        assert index == problem
        assert source.shape == target.shape == (1, 20, 2)
        assert same((source[0], target[0]), module.problem(problem))
    assert module.steps == 9
    for index in (-1, 3):
        with pytest.raises(ValueError, match=r"problem must lie in 0\.\.2"):
            module.problem(index)


def test_shifts_of_problem_zero_have_the_asked_size_and_are_fixed_for_a_seed():
    module = drift(points=4000)
    source, target = module.problem(0)
    half = module.shifted("rotation", 180)
    torch.testing.assert_close(half[0], -source, atol=1e-5, rtol=0)
    torch.testing.assert_close(half[1], -target, atol=1e-5, rtol=0)
    small, large = module.shifted("jitter", 0.1), module.shifted("jitter", 0.3)
    noises = [moved - cloud for moved, cloud in zip(small, (source, target), strict=True)]
    for noise, moved, cloud in zip(noises, large, (source, target), strict=True):
        assert noise.std() == pytest.approx(0.1, rel=0.05)
        torch.testing.assert_close(moved - cloud, 3 * noise, atol=1e-5, rtol=0)
    assert not torch.allclose(noises[0], noises[1])
    assert same(small, drift(points=4000).shifted("jitter", 0.1))


@pytest.mark.parametrize(
    ("kind", "amount", "complaint"),
    [
        ("shear", 1, "kind must be 'rotation' or 'jitter'"),
        ("jitter", -0.1, "amount must be finite"),
        ("rotation", math.inf, "amount must be finite"),
    ],
)
def test_unknown_shifts_are_refused(kind, amount, complaint):
    with pytest.raises(ValueError, match=complaint):
        drift().shifted(kind, amount)


def test_generated_data_names_its_laws():
    assert drift().fingerprints() == {
        "source": repr(drift_source()),
        "target": repr(ShiftedMoons()),
        "drift": "3 frames, t quarter turns, scale 0.5 + 0.2 t, t from 1 to 0",
    }
    names = ladder(source=StandardNormal()).fingerprints()
    assert names == {"source": "StandardNormal(dimension=2)", "target": repr(ShiftedMoons())}


def rows_of(points, cloud):
    """Where each point lies in a cloud whose points all differ."""
    return [(cloud == point).all(1).nonzero().item() for point in points]


def test_ladder_batches_are_different_points_drawn_independently_on_both_sides():
    module = ladder()
    for step, size in ((0, 4), (3, 8), (8, 16)):
        source, target, index = module.draw_batch(step)
        assert index == step // 3
        assert source.shape == target.shape == (1, size, 2)
        rows = [
            rows_of(batch[0], cloud)
            for batch, cloud in zip((source, target), module.problem(index), strict=True)
        ]
        assert len(set(rows[0])) == len(set(rows[1])) == size
        assert rows[0] != rows[1]
    assert same(module.problem(0), module.problem(2))


def test_a_batch_as_large_as_the_cloud_is_the_cloud_in_another_order():
    module = ladder(sizes=[4, 32])
    source, target, _ = module.draw_batch(5)
    for batch, cloud in zip((source, target), module.problem(1), strict=True):
        assert sorted(rows_of(batch[0], cloud)) == list(range(32))


def test_scored_clouds_are_none_that_training_sees():
    module = ladder()
    seen = {tuple(point.tolist()) for cloud in module.problem(0) for point in cloud}
    for cloud in (*module.held_out(), *module.pool()):
        assert not seen & {tuple(point.tolist()) for point in cloud}
    assert module.held_out()[0].shape == (32, 2)
    source, target = module.batches(1, 5)
    assert source.shape == target.shape == (5, 8, 2)
    for batch, cloud in zip((source, target), module.pool(), strict=True):
        for one in batch:
            assert len(set(rows_of(one, cloud))) == 8
    assert same((source, target), ladder().batches(1, 5))
    with pytest.raises(ValueError, match="count must be at least 1"):
        module.batches(0, 0)


def shape_numbers(batch):
    """The stored numbers and classes that the fixture wrote into the coordinates."""
    values = (batch * 32767).round().long()
    return values[..., 0, 1].tolist(), values[..., 0, 2].tolist(), values[..., 0]


def test_pairs_are_of_the_two_classes_with_new_points_and_new_partners(shapes):
    module = pairs()
    partners = {}
    for epoch in range(2):
        met = []
        for step in range(2 * epoch, 2 * epoch + 2):
            source, target = module.draw_batch(step)
            assert source.shape == target.shape == (3, 16, 3)
            for side, label in ((source, 0), (target, 2)):
                _, classes, points = shape_numbers(side)
                assert classes == [label] * 3
                assert all(len(set(row.tolist())) == 16 for row in points)
            met += zip(shape_numbers(source)[0], shape_numbers(target)[0], strict=True)
        # Six tables make an epoch of two steps of three.
        assert len({table for _, table in met}) == 6
        partners[epoch] = {table: chair for chair, table in met}
    assert partners[0] != partners[1]
    chairs = [chair for step in range(3) for chair in shape_numbers(module.draw_batch(step)[0])[0]]
    assert len(set(chairs)) == 9, "nine chairs make an epoch of three steps of three"


def test_evaluation_pairs_keep_the_stored_order_and_belong_to_no_run(shapes):
    module = pairs(evaluation_pairs=4)
    for split, count in (("train", 4), ("test", 4)):
        asked = module.evaluation_pairs(split)
        assert len(asked) == count
        stored = np.load(module.folder.path / f"{split}_1024.npz")["label"]
        for k, (source, target) in enumerate(asked):
            assert source.shape == target.shape == (1024, 3)
            for cloud, label in ((source, 0), (target, 2)):
                number = shape_numbers(cloud[None])[0][0]
                assert number == np.flatnonzero(stored == label)[k]
    assert len(pairs(evaluation_pairs=1000).evaluation_pairs("train")) == 6
    assert len(pairs().evaluation_pairs("test")) == 4
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'validation'"):
        module.evaluation_pairs("validation")


def test_fewer_evaluation_points_are_fixed_for_a_pair(shapes):
    one = pairs(evaluation_points=50, evaluation_pairs=2).evaluation_pairs("test")
    other = pairs(seed=5, evaluation_points=50, evaluation_pairs=4).evaluation_pairs("test")
    for left, right in zip(one, other[:2], strict=True):
        assert same(left, right)
    points = [shape_numbers(cloud[None])[2].flatten().tolist() for pair in one for cloud in pair]
    assert all(len(set(cloud)) == 50 for cloud in points)
    assert len({tuple(cloud) for cloud in points}) == 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("chair", "lamp", 3, 9), "class must be one of chair, sofa, table, got 'lamp'"),
        (("chair", "chair", 3, 9), "target_class must differ from source_class"),
        (("chair", "table", 7, 9), "pairs_per_step must be at most the 6 shapes"),
        (("chair", "table", 0, 9), "pairs_per_step must be at least 1"),
        (("chair", "table", 3, 9, 1025), r"points must lie in 1\.\.1024"),
        (("chair", "table", 3, 9, 16, 0), "evaluation_pairs must be at least 1"),
    ],
)
def test_bad_pairs_are_refused(shapes, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        begun(CloudPairs(*arguments))


def test_noise_is_new_in_training_and_fixed_in_the_exam(shapes):
    module = gaussians()
    first, second = module.draw_batch(0), module.draw_batch(1)
    assert first[0].shape == first[1].shape == (3, 16, 3)
    assert not torch.equal(first[0], second[0])
    noise = torch.cat([module.draw_batch(step)[0] for step in range(40)]).flatten()
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)
    asked, again = module.evaluation_pairs("test"), gaussians(seed=9).evaluation_pairs("test")
    more = gaussians(evaluation_pairs=9).evaluation_pairs("test")
    for one, two, three in zip(asked, again, more[:7], strict=True):
        assert same(one, two)
        assert same(one, three)
    assert len({float(source[0, 0]) for source, _ in asked}) == 7
    other = gaussians(evaluation_seed=1).evaluation_pairs("test")
    assert not torch.equal(asked[0][0], other[0][0])


def test_gaussian_pairs_are_balanced_over_the_classes(shapes):
    labels = [shape_numbers(cloud[None])[1][0] for _, cloud in gaussians().evaluation_pairs("test")]
    assert labels == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="evaluation_pairs must be at most 9, 3 of every class"):
        gaussians(evaluation_pairs=10).evaluation_pairs("test")
    assert gaussians().fingerprints() == {
        "modelnet10": "0123456789ab",
        "source": "StandardNormal(dimension=3)",
    }


def test_balanced_rows_are_the_first_of_every_class():
    labels = torch.tensor([1, 0, 0, 1, 0, 1])
    assert balanced(labels, 2, 5).tolist() == [1, 0, 2, 3, 4]


def test_shapes_alone_come_with_their_labels(shapes):
    module = clouds()
    seen = []
    for step in range(4):
        batch, labels = module.draw_batch(step)
        assert batch.shape == (4, 16, 3)
        numbers, classes, _ = shape_numbers(batch)
        assert classes == labels.tolist()
        seen += numbers
    assert len(set(seen)) == 16, "no shape twice in an epoch"
    assert module.evaluation_clouds().shape == (12, 1024, 3)
    few = clouds(evaluation_shapes=6, evaluation_points=20).evaluation_clouds()
    assert few.shape == (6, 20, 3)
    assert torch.equal(
        few, clouds(3, evaluation_shapes=6, evaluation_points=20).evaluation_clouds()
    )


def digits_of(module, latents, split):
    codes = module.codes
    everything, labels = {
        "train": (codes.train_latents, codes.train_labels),
        "test": (codes.test_latents, codes.evaluation_labels()),
    }[split]
    return labels[rows_of(latents, everything)].tolist()


def test_latent_batches_pair_the_two_groups_anew_in_every_epoch(digits):
    module = groups()
    epochs = []
    for epoch in range(2):
        batches = [module.draw_batch(5 * epoch + step) for step in range(5)]
        sides = [torch.cat([batch[side][0] for batch in batches]) for side in (0, 1)]
        assert all(batch[0].shape == batch[1].shape == (1, 5, 2) for batch in batches)
        assert set(digits_of(module, sides[0], "train")) == {0, 1, 2, 3, 4}
        assert set(digits_of(module, sides[1], "train")) == {5, 6, 7, 8, 9}
        assert all(len(side.unique(dim=0)) == 25 for side in sides), "every latent once an epoch"
        epochs.append({tuple(a.tolist()): tuple(b.tolist()) for a, b in zip(*sides, strict=True)})
    assert epochs[0] != epochs[1]
    assert module.fingerprints() == {
        "mnist": "ba9876543210",
        "groups": "digits [0, 1, 2, 3, 4] onto [5, 6, 7, 8, 9]",
    }


def test_latent_blocks_are_disjoint_of_their_split_and_the_same_for_every_run(digits):
    module, other = groups(), groups(seed=8)
    for split in ("train", "test"):
        blocks = module.evaluation_pairs(split)
        assert len(blocks) == 3
        assert all(same(a, b) for a, b in zip(blocks, other.evaluation_pairs(split), strict=True))
        for side, allowed in ((0, {0, 1, 2, 3, 4}), (1, {5, 6, 7, 8, 9})):
            latents = torch.cat([block[side] for block in blocks])
            assert latents.shape == (15, 2)
            assert len(latents.unique(dim=0)) == 15
            assert set(digits_of(module, latents, split)) <= allowed
    with pytest.raises(ValueError, match="split must be 'train' or 'test'"):
        module.evaluation_pairs("validation")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"source_digits": [0, 10]}, "source_digits must be distinct digits"),
        ({"target_digits": []}, "target_digits must be distinct digits"),
        ({"target_digits": [4, 5]}, r"target_digits must hold none of the source's, got \[4\]"),
        ({"evaluation_pairs": 4}, "must be at most the 15 latents"),
        ({"evaluation_points": 0}, "must be at least 1"),
    ],
)
def test_bad_groups_are_refused(digits, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        groups(**changes)


def test_a_missing_autoencoder_is_named(digits):
    with pytest.raises(ValueError, match="parents must name an 'autoencoder'"):
        begun(LatentGroups(steps=1, batch_size=5, validation=10))


@pytest.mark.parametrize(
    ("make", "changes", "complaint"),
    [
        (drift, {"problems": 1}, "problems must be at least 2"),
        (drift, {"iterations_each": 0}, "iterations_each must be at least 1"),
        (drift, {"points": 0}, "batch_size must be at least 1"),
        (ladder, {"sizes": [8, 4]}, "sizes must be increasing"),
        (ladder, {"sizes": []}, "sizes must be increasing"),
        (ladder, {"sizes": [8, 33]}, "points must be at least 33, got 32"),
        (ladder, {"pool_points": 8}, "pool_points must be at least 16, got 8"),
    ],
)
def test_bad_sequences_are_refused(make, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(**changes)


def test_the_real_shapes_when_they_are_here():
    try:
        data.verify("modelnet10")
    except data.DataNotFound:
        pytest.skip("ModelNet10 is neither in $SEXTANT_DATA nor in the cache")
    module = begun(CloudPairs("chair", "table", 8, 1))
    assert [len(module.split(split).labels) for split in ("train", "test")] == [3991, 908]
    assert [len(side) for side in module.sides] == [889, 392]
    assert [len(module.evaluation_pairs(split)) for split in ("train", "test")] == [392, 100]
    train = module.split("train").clouds
    assert train.abs().amax((1, 2)).eq(1).all()
    assert ((train.amax(1) + train.amin(1)) / 2).abs().max() < 1e-4
