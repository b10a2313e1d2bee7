"""Pictures in three parts, the exam that asks about them, and the figures of what it saw."""

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from tasks.doubly_stochastic.data import MnistData, PictureData, class_by_class, share_of_each_class
from tasks.doubly_stochastic.figures import (
    PRINTED,
    attention_figure,
    runtime_figure,
    share_figure,
    shares_of_orders,
    toy_figure,
)
from tasks.doubly_stochastic.scoring import PictureExam
from tasks.shared.pictures import Pictures


class Folder:
    fingerprint = "abc"


class Toy(PictureData):
    """40 pictures of 2 classes to train with; class 1 is bright."""

    name, classes = "toy", 2

    def read(self, folder):
        def part(count):
            labels = torch.arange(count) % 2
            images = (
                100 + 100 * labels[:, None, None, None] + torch.arange(count)[:, None, None, None]
            )
            return Pictures(images.to(torch.uint8).expand(-1, 1, 4, 4).contiguous(), labels)

        return {"train": part(40), "validation": part(10), "test": part(20)}


@pytest.fixture
def begun(monkeypatch):
    monkeypatch.setattr("tasks.doubly_stochastic.data.locate", lambda name: Folder())

    def begin(seed=0, **settings):
        data = Toy(**{"batch_size": 8, "steps": 20} | settings)
        data.prepare(Streams(seed), {})
        return data

    return begin


def test_a_share_is_of_every_class_and_grows(begun):
    labels = torch.tensor([0] * 30 + [1] * 10)
    few, more = (set(share_of_each_class(labels, share).tolist()) for share in (0.1, 0.5))
    assert few < more
    assert labels[sorted(more)].bincount().tolist() == [15, 5]
    assert labels[sorted(share_of_each_class(labels, 1e-9).tolist())].tolist() == [0, 1]
    data, again, other = begun(share=0.5), begun(share=0.5), begun(1, share=0.5)
    assert len(data.examples("train")[1]) == 20
    # Which are seen depends on no seed, their order does.
    assert torch.equal(data.examples("train")[0], other.examples("train")[0])
    assert torch.equal(data.draw_batch(7)[0], again.draw_batch(7)[0])
    assert not torch.equal(data.draw_batch(7)[0], other.draw_batch(7)[0])
    for part, count in (("validation", 10), ("test", 20)):
        assert len(data.examples(part)[1]) == count


def test_a_batch_larger_than_the_share_repeats_it(begun):
    data = begun(share=0.1, batch_size=10)
    inputs, labels = data.draw_batch(0)
    assert inputs.shape == (10, 1, 4, 4)
    assert len(inputs.unique(dim=0)) == 4
    assert labels.bincount().min() >= 4


def test_inputs_are_scaled_and_mirrored_at_random(begun):
    data = begun(flip=True)
    found = [bound.item() for bound in data.examples("test")[0].aminmax()]
    assert found == pytest.approx([(value / 255 - 0.5) / 0.5 for value in (100, 219)])
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(40, -1, -1, -1)
    data._parts["train"] = Pictures(images, data._parts["train"].labels)
    plain = data.inputs(images[:1])[0]
    mirrored = [torch.equal(picture, plain.flip(-1)) for picture in data.draw_batch(0)[0]]
    assert 0 < sum(mirrored) < 8
    assert all(
        torch.equal(picture, plain.flip(-1) if turned else plain)
        for picture, turned in zip(data.draw_batch(0)[0], mirrored, strict=True)
    )


def test_settings_are_checked(begun):
    with pytest.raises(ValueError, match="share must lie in"):
        MnistData(8, 4, share=0.0)
    with pytest.raises(ValueError, match="limit must be at least 1 or null, got 0"):
        MnistData(8, 4, limit=0)
    with pytest.raises(ValueError, match="part must be one of train, validation, test, got 'all'"):
        begun().examples("all")


def test_classes_take_turns():
    labels = np.array([1, 1, 0, 0, 1, 0])
    order = np.concatenate(class_by_class(labels))
    assert labels[order].tolist() == [0, 1] * 3
    assert sorted(order) == list(range(6))


class Bright:
    """Names the bright class, and is wrong about the darkest picture of it."""

    parameter_count, seconds_a_step = 3, 0.5

    def logits(self, inputs):
        bright = inputs.mean((1, 2, 3)) > (202 / 255 - 0.5) / 0.5
        return torch.stack((~bright, bright), 1).float()

    def diagnostics(self, inputs):
        return {"row_defect": float(len(inputs)), "entropy": 0.5}

    def attention_rows(self, inputs):
        return torch.eye(5).expand(2, len(inputs), 3, 5, 5)


def test_the_exam(begun):
    found = PictureExam().examine(Bright(), begun(), Streams(0), {})
    assert found.scores["accuracy"].value == pytest.approx(95.0)
    assert found.scores["accuracy"].n == 20
    assert found.scores["validation_accuracy"].value == pytest.approx(90.0)
    assert found.arrays["confusion"].tolist() == [[10, 0], [1, 9]]
    assert found.scores["row_defect"].value == 20.0
    assert found.scores["row_defect"].better == "lower"
    assert found.scores["seconds_a_step"].value == 0.5
    assert found.arrays["attention"].shape == (2, 3, 5, 5)
    assert found.arrays["specimen"].shape == (1, 4, 4)


def test_the_exam_refuses_what_is_no_score(begun):
    student = Bright()
    student.logits = lambda inputs: torch.zeros(len(inputs), 3)
    with pytest.raises(ValueError, match=r"logits must be \(20, 2\), got \(20, 3\)"):
        PictureExam().examine(student, begun(), Streams(0), {})
    student.logits = lambda inputs: torch.full((len(inputs), 2), torch.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        PictureExam().examine(student, begun(), Streams(0), {})


def test_the_toy_is_the_paper_s():
    assert shares_of_orders() == pytest.approx(PRINTED, abs=0.5)
    assert sum(shares_of_orders().values()) == pytest.approx(100)


def run(method, task="1 %", seed=0, accuracy=50.0, **arrays):
    return {
        "task": task,
        "task_label": task,
        "method": method,
        "method_label": method,
        "seed": seed,
        "arrays": arrays,
        "scores": {"accuracy": {"value": accuracy}} if accuracy else {},
    }


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def test_figures_are_drawn_and_say_what_they_lack(tmp_path):
    lengths = np.array([50, 100])
    timed = [run(name, lengths=lengths, forward_ms=lengths * k) for k, name in enumerate("ab", 1)]
    matrix = np.full((1, 2, 17, 17), 1 / 17)
    seen = [
        run(name, attention=matrix * np.linspace(0.5, 1.5, 17), specimen=np.random.rand(3, 32, 32))
        for name in ("softmax", "esp")
    ]
    trained = [
        run(name, f"{share} %", seed, 50 + 5 * k + seed)
        for k, name in enumerate(("softmax", "esp"))
        for share in (1, 10)
        for seed in (0, 1)
    ]
    drawn = {
        "runtime": runtime_figure(timed, tmp_path / "runtime.png"),
        "toy": toy_figure([], tmp_path / "toy.png"),
        "attention": attention_figure(seen, tmp_path / "attention.png"),
        "share": share_figure(trained, tmp_path / "share.png"),
    }
    for path in drawn.values():
        assert (read(path) < 128).any()
    for make in (runtime_figure, attention_figure):
        with pytest.raises(ValueError, match="runs must hold one with the arrays"):
            make(trained, tmp_path / "none.png")
    with pytest.raises(ValueError, match="runs must hold one with the score accuracy"):
        share_figure([run("esp", accuracy=None)], tmp_path / "none.png")
    # A better seed moves its dot.
    moved = [*trained[:-1], run("esp", "10 %", 1, 90.0)]
    assert (read(share_figure(moved, tmp_path / "moved.png")) != read(drawn["share"])).any()
