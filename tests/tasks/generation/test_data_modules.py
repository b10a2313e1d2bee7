"""Data modules: reproducible batches, splits, standardised latents, fixed exams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant import data
from sextant.contracts import Streams
from sextant.data.sources import write_idx
from tasks.generation.data import LatentMnist, MnistImages, PlaneData
from tasks.shared.plane import EightGaussians, StandardNormal, TwoMoons
from tasks.shared.stepwise import EpochOrder


def plane(seed=0, **changes):
    arguments = {"batch_size": 16, "steps": 5, "evaluation_points": 64} | changes
    module = PlaneData(EightGaussians(), TwoMoons(), **arguments)
    module.prepare(Streams(seed), {})
    return module


class Halves:
    """A parent whose codes are the sums of the image's left and right half: 2 numbers."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def load(self):
        return self

    def encode(self, images):
        left, right = images[..., :14].sum((1, 2, 3)), images[..., 14:].sum((1, 2, 3))
        return self.factor * torch.stack((left, right), dim=1)


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
    found = data.DataFolder("mnist", folder, "cache", "0123456789ab", "MNIST")
    for module in ("tasks.generation.data", "tasks.shared.latents"):
        monkeypatch.setattr(f"{module}.locate", lambda name: found)
    return folder


def latents(seed=0, parent=None, **changes):
    arguments = {"batch_size": 8, "steps": 12, "validation": 10} | changes
    module = LatentMnist(**arguments)
    module.prepare(Streams(seed), {"autoencoder": parent or Halves()})
    return module


def same(one, other):
    return all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("make", [plane, latents])
def test_batches_are_tuples_and_go_on_where_a_run_stopped(make, digits):
    whole = list(make(steps=10).train_dataloader())
    assert all(type(batch) is tuple and len(batch) == 3 for batch in whole)
    resumed = make(steps=10)
    resumed.first_step = 4
    rest = list(resumed.train_dataloader())
    assert len(whole) == 10
    assert len(rest) == 6
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not same(whole[0], whole[1])
    assert not same(whole[0], make(seed=1, steps=10).draw_batch(0))


def test_plane_batches_hold_independent_source_and_target():
    source, target, labels = plane(batch_size=4000).draw_batch(3)
    assert source.shape == target.shape == (4000, 2)
    assert source.dtype == target.dtype == torch.float32
    assert labels is None
    correlation = torch.corrcoef(torch.cat((source, target), dim=1).T)[:2, 2:]
    assert correlation.abs().max() < 0.08


def test_equal_laws_at_both_ends_still_draw_different_points():
    module = PlaneData(StandardNormal(), StandardNormal(), 8, 1)
    module.prepare(Streams(0), {})
    source, target, _ = module.draw_batch(0)
    assert not torch.equal(source, target)
    assert not torch.equal(module.evaluation_source(), module.evaluation_target())


def test_the_plane_exam_is_the_same_for_every_run_and_balanced():
    one, other = plane(seed=0), plane(seed=7, batch_size=32)
    assert torch.equal(one.evaluation_source(), other.evaluation_source())
    assert torch.equal(one.evaluation_target(), other.evaluation_target())
    assert not torch.equal(one.evaluation_target(), plane(evaluation_seed=1).evaluation_target())
    both = PlaneData(EightGaussians(), EightGaussians(), 4, 1, evaluation_points=64)
    for points in (both.evaluation_source(), both.evaluation_target()):
        angle = torch.atan2(points[:, 1], points[:, 0])
        _, counts = ((angle / (torch.pi / 4)).round().long() % 8).unique(return_counts=True)
        assert counts.tolist() == [8] * 8


def test_plane_names_its_laws():
    assert plane().fingerprints() == {
        "source": "EightGaussians(radius=2.0, std=0.08)",
        "target": "TwoMoons(noise=0.08, scale=1.6)",
    }


def test_nothing_is_drawn_before_prepare():
    with pytest.raises(RuntimeError, match="prepare"):
        PlaneData(StandardNormal(), TwoMoons(), 4, 1).draw_batch(0)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 50), batch_size=st.integers(1, 50), seed=st.integers(0, 5))
def test_an_epoch_visits_every_example_at_most_once(count, batch_size, seed):
    if batch_size > count:
        with pytest.raises(ValueError, match="batch_size must be at most"):
            EpochOrder(count, batch_size, Streams(seed))
        return
    order, a_while_later = (EpochOrder(count, batch_size, Streams(seed)) for _ in range(2))
    steps = count // batch_size
    epochs = [torch.cat([order.rows(e * steps + k) for k in range(steps)]) for e in range(3)]
    for rows in epochs:
        assert len(rows.unique()) == len(rows) == steps * batch_size
    assert torch.equal(a_while_later.rows(2 * steps), epochs[2][:batch_size])
    if count > 20:
        assert not torch.equal(epochs[0], epochs[1])


def test_images_are_split_scaled_and_shuffled(digits):
    module = MnistImages(batch_size=10, steps=10, validation=10)
    module.prepare(Streams(0), {})
    assert [len(part.labels) for part in (module.train, module.validation, module.test)] == [
        50,
        10,
        30,
    ]
    batches = list(module.train_dataloader())
    seen = torch.cat([images for images, _ in batches[:5]])
    assert seen.shape == (50, 1, 28, 28)
    assert seen.min() == 0
    assert seen.max() == 1
    # Five batches of ten are one epoch of the fifty training images, none of the validation part.
    raw = torch.sort((seen * 255).round().sum((1, 2, 3)).long()).values
    assert torch.equal(raw, torch.sort(module.train.images.long().sum((1, 2))).values)
    assert torch.equal(batches[0][1], module.train.labels[module.order.rows(0)])
    assert module.fingerprints() == {"mnist": "0123456789ab"}
    assert module.evaluation_images().shape == (30, 1, 28, 28)
    assert torch.equal(module.evaluation_labels(), module.test.labels)


def test_a_limit_keeps_the_first_images_of_each_part(digits):
    module = MnistImages(batch_size=5, steps=1, validation=10, limit=7)
    module.prepare(Streams(0), {})
    whole = MnistImages(batch_size=5, steps=1, validation=10)
    whole.prepare(Streams(0), {})
    for few, all_of_them in (
        (module.train, whole.train),
        (module.validation, whole.validation),
        (module.test, whole.test),
    ):
        assert torch.equal(few.images, all_of_them.images[:7])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"validation": 0}, "validation must lie in 1..59"),
        ({"validation": 60}, "validation must lie in 1..59"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": 51}, "batch_size must be at most the 50 examples"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": -1}, "steps must be at least 0"),
    ],
)
def test_bad_image_settings_are_refused(digits, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        MnistImages(**({"batch_size": 5, "steps": 1, "validation": 10} | changes)).prepare(
            Streams(0), {}
        )


def test_labels_of_another_length_are_refused(digits):
    write_idx(digits / "t10k-labels-idx1-ubyte", (29,), [bytes(29)])
    with pytest.raises(ValueError, match="t10k files must hold"):
        MnistImages(batch_size=5, steps=1, validation=10).prepare(Streams(0), {})


def test_latents_have_mean_zero_and_one_scale_that_keeps_shape(digits):
    module = latents()
    assert module.train_latents.mean(0).abs().max() < 1e-4
    assert module.train_latents.var(0).mean() == pytest.approx(1, rel=1e-4)
    # One scalar: a code space ten times as large gives the same latents, and both can go back.
    larger = latents(parent=Halves(factor=10.0))
    torch.testing.assert_close(larger.train_latents, module.train_latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        larger.to_codes(larger.test_latents), 10 * module.to_codes(module.test_latents)
    )
    torch.testing.assert_close(
        module.to_codes(module.test_latents), Halves().encode(module.evaluation_images())
    )
    ratio = module.train_latents.std(0)
    assert abs(float(ratio[0] / ratio[1]) - 1) > 1e-3, "coordinates are not scaled one by one"


def test_latent_labels_travel_with_their_latents(digits):
    module = latents()
    source, batch, labels = module.draw_batch(2)
    assert source.shape == batch.shape == (8, 2)
    assert labels.dtype == torch.int64
    for latent, label in zip(batch, labels, strict=True):
        row = (module.train_latents == latent).all(1).nonzero().item()
        assert module.train_labels[row] == label


def test_target_draws_answer_the_labels_asked_for(digits):
    module = latents()
    labels = torch.randint(10, (300,), generator=torch.Generator().manual_seed(1))
    drawn = module.draw_target(300, Streams(3).generator("x"), labels)
    rows = [(module.train_latents == latent).all(1).nonzero().item() for latent in drawn]
    assert torch.equal(module.train_labels[rows], labels)
    assert len(set(rows)) == 50, "every training latent can be drawn"
    assert torch.equal(drawn, module.draw_target(300, Streams(3).generator("x"), labels))
    free = module.draw_target(200, Streams(3).generator("x"))
    same_rows = module.draw_labels(200, Streams(3).generator("x"))
    rows = [(module.train_latents == latent).all(1).nonzero().item() for latent in free]
    assert torch.equal(module.train_labels[rows], same_rows)


def test_bad_labels_are_refused(digits):
    module = latents()
    for labels, complaint in (
        (torch.tensor([1, 2]), r"shape \(3,\)"),
        (torch.tensor([1, 2, 10]), "labels hold 10"),
        (torch.tensor([1, -1, 2]), "labels hold -1"),
    ):
        with pytest.raises(ValueError, match=complaint):
            module.draw_target(3, torch.Generator(), labels)
    with pytest.raises(ValueError, match="no classes"):
        plane().draw_target(3, torch.Generator(), torch.tensor([1, 2, 3]))


def test_the_latent_exam_is_stratified_and_the_same_for_every_run(digits):
    one, other = latents(evaluation_points=20), latents(seed=5, evaluation_points=20)
    for question in ("source", "target", "labels", "images"):
        asked = [getattr(module, f"evaluation_{question}")() for module in (one, other)]
        assert torch.equal(*asked)
        assert len(asked[0]) == 20
    assert torch.bincount(one.evaluation_labels()).tolist() == [2] * 10
    torch.testing.assert_close(
        one.to_codes(one.evaluation_target()), Halves().encode(one.evaluation_images())
    )
    assert len(latents(evaluation_points=10000).evaluation_labels()) == 30


def test_a_diverged_or_missing_autoencoder_is_named(digits):
    with pytest.raises(FloatingPointError, match="autoencoder"):
        latents(parent=Halves(factor=float("nan")))
    with pytest.raises(ValueError, match="autoencoder"):
        LatentMnist(4, 1).prepare(Streams(0), {})


def test_the_real_mnist_when_it_is_here():
    try:
        data.verify("mnist")
    except data.DataNotFound:
        pytest.skip("MNIST is neither in $SEXTANT_DATA nor in the cache")
    module = MnistImages(batch_size=256, steps=1)
    module.prepare(Streams(0), {})
    assert [len(part.labels) for part in (module.train, module.validation, module.test)] == [
        55000,
        5000,
        10000,
    ]
    values = torch.arange(256).double() / 255
    counts = sum(
        torch.bincount(part.images.flatten(), minlength=256)
        for part in (module.train, module.validation)
    )
    mean = (values * counts).sum() / counts.sum()
    std = ((values - mean) ** 2 * counts / counts.sum()).sum().sqrt()
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert std == pytest.approx(0.3081, abs=5e-5)
    assert module.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(module.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
