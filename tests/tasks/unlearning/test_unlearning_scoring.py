"""The exam of unlearning against hand counts, on students whose answers are made up."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix

from sextant.contracts import Streams
from tasks.unlearning import attacks, measures
from tasks.unlearning.scoring import PARTS, ForgettingExam

CLASSES = 4
SIZES = {"retained": 90, "forgotten": 30, "test_retained": 60, "test_forgotten": 20}


class Questions:
    """Inputs are the wanted logits; class 3 is forgotten, or pictures of all others."""

    forgotten_classes = (3,)
    mean, deviation = 0.5, 0.5

    def __init__(self, seed=0, without=()):
        generator = torch.Generator().manual_seed(seed)
        self.parts = {}
        for part, size in SIZES.items():
            size = 0 if part in without else size
            labels = torch.full((size,), 3)
            if without or not part.endswith("forgotten"):
                labels = torch.randint(3, (size,), generator=generator)
            self.parts[part] = (torch.randn(size, CLASSES, generator=generator), labels)

    def examples(self, part):
        return self.parts[part]


class Student:
    def __init__(self, turn=0.0, **more):
        self.turn = torch.tensor([0.0, 0.0, 0.0, turn])
        vars(self).update(more)

    def logits(self, inputs):
        return inputs + self.turn


def examined(student, data=None, retrained=None, **settings):
    parents = {}
    if retrained is not None:
        parents["retrained"] = SimpleNamespace(load=lambda: retrained)
    return ForgettingExam(**settings).examine(student, data or Questions(), Streams(0), parents)


def percent(student, data, *parts):
    named = torch.cat([student.logits(data.examples(part)[0]).argmax(1) for part in parts])
    labels = torch.cat([data.examples(part)[1] for part in parts])
    return 100 * accuracy_score(labels, named), len(labels), (labels, named)


def test_accuracies_are_counts():
    student, data = Student(0.3), Questions()
    found = examined(student, data)
    for part in PARTS:
        value, n, _ = percent(student, data, part)
        score = found.scores[part]
        assert (score.value, score.n) == (pytest.approx(value), n)
        assert score.better == ("lower" if part.endswith("forgotten") else "higher")
        assert score.standard_error == pytest.approx(math.sqrt(value * (100 - value) / n))
    value, n, (labels, named) = percent(student, data, "test_retained", "test_forgotten")
    assert (found.scores["test"].value, found.scores["test"].n) == (pytest.approx(value), n)
    assert np.array_equal(found.arrays["confusion"], confusion_matrix(labels, named))
    assert set(found.scores) == {*PARTS, "test"}


def test_a_model_beside_itself_has_no_gap():
    scores = examined(Student(), retrained=Student()).scores
    for name in (*(f"gap_{part}" for part in PARTS), "average_gap"):
        assert scores[name].value == 0
    assert scores["tow"].value == 100


def test_comparison_with_the_retrained_model():
    student, retrained, data = Student(-0.4), Student(-9.0), Questions()
    scores = examined(student, data, retrained).scores
    gaps = {
        part: abs(percent(student, data, part)[0] - percent(retrained, data, part)[0])
        for part in PARTS
    }
    for part, value in gaps.items():
        assert scores[f"gap_{part}"].value == pytest.approx(value)
    assert scores["gap_forgotten"].value > 10

    def efficacy(model):
        answers = [
            measures.Answers(model.logits(inputs), labels)
            for inputs, labels in map(data.examples, ("retained", "test_retained", "forgotten"))
        ]
        return 100 * attacks.svm_efficacy(
            *answers, Streams(0).generator("attack on the true class")
        )

    assert scores["svm_efficacy"].value == pytest.approx(efficacy(student))
    four = [gaps[part] for part in ("forgotten", "retained", "test_retained")]
    four.append(abs(efficacy(student) - efficacy(retrained)))
    assert scores["average_gap"].value == pytest.approx(sum(four) / 4)
    expected = math.prod(1 - gap / 100 for gap in four[:3])
    assert scores["tow"].value == pytest.approx(100 * expected)
    assert 0 <= scores["entropy_membership"].value <= 100
    assert 20 < scores["loss_attack"].value < 80  # both sets are draws of one law


def test_a_random_share_has_no_forgotten_test_pictures():
    data = Questions(without=["test_forgotten"])
    scores = examined(Student(), data, Student(-1.0)).scores
    assert "test_forgotten" not in scores
    assert scores["test"].value == scores["test_retained"].value


def test_what_a_student_offers_is_scored():
    unlearned = SimpleNamespace(
        seconds={"inversion": 2.0, "updates": 0.5},
        curve=[{"epoch": 1, "retained": 0.9}, {"epoch": 2, "retained": 0.8}],
    )
    fresh = {"fresh_logits": lambda inputs: inputs, "unlearned": unlearned}
    found = examined(Student(**fresh))
    assert found.scores["zrf"].value == pytest.approx(100)
    assert found.scores["seconds_inversion"].value == 2.0
    assert found.scores["seconds"].value == 2.5
    assert found.arrays["curve_retained"].tolist() == [0.9, 0.8]


def test_fewer_of_the_retained_pictures_may_be_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(
        attacks, "svm_efficacy", lambda *parts: seen.append([len(p) for p in parts[:3]]) or 0.5
    )
    examined(Student(), retrained=Student(), asked=25)
    assert seen == [[25, 60, 30]] * 2
    with pytest.raises(ValueError, match="asked must be at least 20, got 5"):
        ForgettingExam(5)


def test_a_diverged_model_is_a_failure():
    with pytest.raises(FloatingPointError, match="not finite"):
        examined(Student(float("nan")))
