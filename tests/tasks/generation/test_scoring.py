"""The exams, taken by students whose marks are known beforehand."""

import math

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.flow.reference import SecondDraw
from tasks.generation import scoring
from tasks.generation.data import PlaneData
from tasks.generation.scoring import (
    LatentImageExam,
    PlaneExam,
    RecognitionExam,
    ReconstructionExam,
)
from tasks.shared.distances import frechet_distance, wasserstein2
from tasks.shared.plane import EightGaussians, StandardNormal

STREAMS = Streams(0)


class Student:
    """Answers with a function of (source, steps, labels) and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, source, steps, labels=None):
        self.asked.append((steps, labels))
        return self.answer(source, steps, labels)


@pytest.fixture
def plane():
    module = PlaneData(StandardNormal(), EightGaussians(), 8, 1, evaluation_points=120)
    module.prepare(STREAMS, {})
    return module


def test_perfect_and_moved_answers_in_the_plane(plane):
    shift = torch.tensor([3.0, 4.0])
    student = Student(lambda source, steps, labels: plane.evaluation_target() + steps * shift)
    marked = PlaneExam([1, 2]).examine(student, plane, STREAMS, {})
    assert student.asked == [(1, None), (2, None)]
    assert {name: round(score.value, 4) for name, score in marked.scores.items()} == {
        "w2@1": 5.0,
        "w2@2": 10.0,
    }
    assert all(score.better == "lower" and score.n == 120 for score in marked.scores.values())
    assert {name: array.dtype for name, array in marked.arrays.items()} == dict.fromkeys(
        ("source", "target", "samples@1", "samples@2"), np.dtype("float32")
    )


def test_the_exam_gives_the_fixed_source(plane):
    marked = PlaneExam([1]).examine(Student(lambda source, *_: source), plane, STREAMS, {})
    expected = wasserstein2(plane.evaluation_source(), plane.evaluation_target())
    assert marked.scores["w2@1"].value == pytest.approx(expected)
    np.testing.assert_array_equal(marked.arrays["samples@1"], plane.evaluation_source().numpy())


def test_no_gradients_are_kept_while_generating(plane):
    weight = torch.ones(2, requires_grad=True)
    PlaneExam([1]).examine(Student(lambda source, *_: source * weight), plane, STREAMS, {})


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (lambda source, *_: source / 0, FloatingPointError, "diverged"),
        (lambda source, *_: source[:-1], ValueError, "generate must return shape"),
    ],
)
def test_bad_answers_are_named(plane, answer, error, complaint):
    with pytest.raises(error, match=complaint):
        PlaneExam([1]).examine(Student(answer), plane, STREAMS, {})


@pytest.mark.parametrize("steps", [[], [0], [1, 1], [-2]])
@pytest.mark.parametrize("exam", [PlaneExam, LatentImageExam])
def test_bad_numbers_of_steps_are_refused(exam, steps):
    with pytest.raises(ValueError, match="steps must be distinct"):
        exam(steps)


def test_second_draw_is_fresh_seeded_and_the_same_for_every_number_of_steps(plane):
    marks = []
    for seed in (0, 0, 1):
        student = SecondDraw()
        student.prepare(Streams(seed), {}, plane)
        marked = PlaneExam([1, 20]).examine(student, plane, Streams(seed), {})
        assert marked.scores["w2@1"] == marked.scores["w2@20"]
        marks.append(marked.scores["w2@1"].value)
    assert marks[0] == marks[1] != marks[2]
    assert min(marks) > 0
    assert max(marks) < 2.0


class Latents:
    """Test data whose latents are 2-D clouds around (label, 0); codes are twice the latents."""

    def __init__(self, n=60):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(n) % 10
        self.latents = 0.1 * torch.randn(n, 2, generator=generator)
        self.latents[:, 0] += self.labels

    def to_codes(self, latents):
        return 2 * latents

    def evaluation_source(self):
        return torch.zeros_like(self.latents)

    def evaluation_target(self):
        return self.latents

    def evaluation_labels(self):
        return self.labels

    def evaluation_images(self):
        return Networks().decode(self.to_codes(self.latents))

    def draw_target(self, n, generator, labels=None):
        return self.latents[(labels + 10) % len(self.latents)]


class Networks:
    """Both parents: a code is written into two pixels, and read back from them."""

    def load(self):
        return self

    def decode(self, codes):
        images = torch.zeros(len(codes), 1, 28, 28)
        images[:, 0, 0, :2] = codes / 40 + 0.25
        return images

    def features(self, images):
        return (images[:, 0, 0, :2] - 0.25) * 40

    def logits(self, images):
        place = self.features(images)[:, :1] / 2
        return -((place - torch.arange(10)) ** 2)


PARENTS = {"autoencoder": Networks(), "classifier": Networks()}


def test_a_perfect_conditional_generator_has_perfect_marks():
    data = Latents()
    student = Student(lambda source, steps, labels: data.latents)
    marked = LatentImageExam([1, 2], grid=4).examine(student, data, STREAMS, PARENTS)
    assert [steps for steps, _ in student.asked] == [1, 2]
    assert all(torch.equal(labels, data.labels) for _, labels in student.asked)
    for k in (1, 2):
        assert marked.scores[f"accuracy@{k}"].value == 1
        assert marked.scores[f"latent_w2@{k}"].value == pytest.approx(0, abs=1e-6)
        assert marked.scores[f"latent_frechet@{k}"].value == pytest.approx(0, abs=1e-9)
        assert marked.scores[f"classifier_frechet@{k}"].value == pytest.approx(0, abs=1e-6)
    directions = {name.split("@")[0]: score.better for name, score in marked.scores.items()}
    assert directions.pop("accuracy") == "higher"
    assert set(directions.values()) == {"lower"}


def test_a_generator_that_ignores_the_class_is_found_out_inside_classes():
    data = Latents()
    # The right points under the wrong labels: as a whole they are perfect.
    student = Student(lambda source, steps, labels: data.latents.roll(1, 0))
    scores = LatentImageExam([1]).examine(student, data, STREAMS, PARENTS).scores
    assert scores["accuracy@1"].value == 0
    assert scores["latent_frechet@1"].value == pytest.approx(0, abs=1e-9)
    assert scores["latent_w2@1"].value > 2
    by_class = [
        wasserstein2(data.latents.roll(1, 0)[data.labels == c], data.latents[data.labels == c])
        for c in range(10)
    ]
    mean = sum(distance**2 for distance in by_class) / 10
    assert scores["latent_w2@1"].value == pytest.approx(math.sqrt(mean))


def test_features_are_compared_on_decoded_images_against_real_ones():
    data = Latents()
    student = Student(lambda source, steps, labels: data.latents + torch.tensor([0.2, 0.0]))
    scores = LatentImageExam([1]).examine(student, data, STREAMS, PARENTS).scores
    # Codes are twice the latents, so the shift of the features is 0.4.
    assert scores["classifier_frechet@1"].value == pytest.approx(0.16, rel=1e-3)
    assert scores["latent_frechet@1"].value == pytest.approx(0.04, rel=1e-3)


def test_accuracy_states_its_standard_error():
    data = Latents()
    wrong = data.latents.clone()
    wrong[:15, 0] = (wrong[:15, 0] + 5) % 10
    student = Student(lambda source, steps, labels: wrong)
    score = LatentImageExam([1]).examine(student, data, STREAMS, PARENTS).scores["accuracy@1"]
    assert score.value == pytest.approx(45 / 60)
    assert score.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 60))


def test_pictures_and_arrays_show_the_asked_classes():
    data = Latents()
    student = Student(lambda source, steps, labels: data.latents)
    marked = LatentImageExam([1, 20], grid=8).examine(student, data, STREAMS, PARENTS)
    assert set(marked.pictures) == {"digits@1", "real_digits"}
    picture = marked.pictures["digits@1"]
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] / picture.shape[1] == 10 / 8
    digits = marked.arrays["digits@20"]
    assert digits.shape == (10, 8, 28, 28)
    # Six test images of each class fill six places, the other two stay black.
    assert (digits[:, 6:] == 0).all()
    expected = data.evaluation_images()[data.labels == 3][:6, 0, 0, 0]
    np.testing.assert_allclose(digits[3, :6, 0, 0], (expected * 255).round().numpy())
    assert marked.arrays["labels"].tolist() == data.labels.tolist()


def test_missing_parents_are_named():
    with pytest.raises(ValueError, match="parents must name classifier"):
        LatentImageExam().examine(None, Latents(), STREAMS, {"autoencoder": Networks()})


def test_second_draw_answers_labels():
    data = Latents()
    student = SecondDraw()
    student.prepare(STREAMS, {}, data)
    scores = LatentImageExam([1]).examine(student, data, STREAMS, PARENTS).scores
    assert scores["accuracy@1"].value == 1


class Images:
    def __init__(self, n=40):
        self.images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(n) % 10

    def evaluation_images(self):
        return self.images

    def evaluation_labels(self):
        return self.labels


class Offset:
    def encode(self, images):
        return images.flatten(1)

    def decode(self, codes):
        return codes.reshape(-1, 1, 28, 28) + 0.1


def test_reconstruction_marks_of_a_constant_error():
    marked = ReconstructionExam().examine(Offset(), Images(), STREAMS, {})
    assert marked.scores["mse"].value == pytest.approx(0.01, rel=1e-5)
    assert marked.scores["psnr"].value == pytest.approx(20.0, rel=1e-5)
    assert (marked.scores["mse"].better, marked.scores["psnr"].better) == ("lower", "higher")
    assert marked.pictures["reconstructions"].dtype == np.uint8


def test_reconstruction_survives_perfection_and_one_image():
    class Exact(Offset):
        def decode(self, codes):
            return codes.reshape(-1, 1, 28, 28)

    marked = ReconstructionExam().examine(Exact(), Images(1), STREAMS, {})
    assert marked.scores["psnr"].value == pytest.approx(100)
    assert marked.scores["mse"].standard_error is None


def test_reconstruction_refuses_another_shape():
    class Flat(Offset):
        def decode(self, codes):
            return codes

    with pytest.raises(ValueError, match="decode must return shape"):
        ReconstructionExam().examine(Flat(), Images(), STREAMS, {})


@pytest.mark.parametrize("wrong", [0, 10, 40])
def test_recognition_counts_right_answers(monkeypatch, wrong):
    monkeypatch.setattr("tasks.shared.scoring.CHUNK", 7)
    data = Images()

    class Reader:
        def logits(self, images):
            rows = [(data.images == image).flatten(1).all(1).nonzero().item() for image in images]
            named = [(data.labels[row] + (1 if row < wrong else 0)).item() % 10 for row in rows]
            return torch.nn.functional.one_hot(torch.tensor(named), 10).float()

    score = RecognitionExam().examine(Reader(), data, STREAMS, {}).scores["accuracy"]
    p = 1 - wrong / 40
    assert score.value == pytest.approx(p)
    assert score.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 40))


def test_the_distances_are_part_of_the_scoring():
    assert scoring.wasserstein2 is wasserstein2
    assert scoring.frechet_distance is frechet_distance
