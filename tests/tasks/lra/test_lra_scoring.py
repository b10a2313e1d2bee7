"""The Arena's exam, taken by students whose marks are known beforehand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix

from sextant.contracts import Streams
from tasks.lra.data import ListopsData
from tasks.lra.listops import ListopsLaw
from tasks.lra.scoring import ArenaExam

STREAMS = Streams(0)


class Data:
    """The first token of an example says its label."""

    classes = 3

    def __init__(self, test, validation=(0, 1, 2)):
        self.labels = {"test": torch.tensor(test), "validation": torch.tensor(validation)}
        self.asked = []

    def evaluation(self, split, batch_size=None):
        for labels in self.labels[split].split(batch_size or 4):
            self.asked.append((split, len(labels)))
            tokens = torch.stack((labels, torch.zeros_like(labels)), 1)
            yield tokens, tokens >= 0, labels

    def majority_rate(self, split):
        return self.labels[split].bincount().max().item() / len(self.labels[split])


class Student:
    """Names the class that `answer` makes of the first token."""

    def __init__(self, answer):
        self.answer = answer

    def logits(self, tokens, mask):
        assert mask.all()
        named = [self.answer(token) for token in tokens[:, 0].tolist()]
        return torch.eye(3)[torch.tensor(named)]


def examined(student, data, **changes):
    return ArenaExam(**changes).examine(student, data, STREAMS, {})


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 2), min_size=3)
)
@settings(deadline=None, max_examples=40)
def test_marks_are_sklearns(labels, answers):
    data = Data(labels)
    marked = examined(Student(lambda token: answers[token]), data)
    named = [answers[label] for label in labels]
    accuracy, score = accuracy_score(labels, named), marked.scores["accuracy"]
    assert score.value == pytest.approx(100 * accuracy)
    assert score.n == len(labels)
    error = 100 * math.sqrt(accuracy * (1 - accuracy) / len(labels))
    assert score.standard_error == pytest.approx(error)
    expected = confusion_matrix(labels, named, labels=[0, 1, 2])
    np.testing.assert_array_equal(marked.arrays["confusion"], expected)
    majority = max(labels.count(label) for label in range(3)) / len(labels)
    assert marked.scores["majority_rate"].value == pytest.approx(100 * majority)
    above = marked.scores["above_majority"]
    assert above.value == pytest.approx(100 * (accuracy - majority))
    assert above.standard_error == score.standard_error


def test_every_test_example_counts_once_and_the_last_batch_too():
    data = Data([0, 1, 2, 0, 1, 2, 0])
    marked = examined(Student(lambda token: token), data, batch_size=3)
    assert data.asked == [("test", 3), ("test", 3), ("test", 1), ("validation", 3)]
    assert marked.scores["accuracy"].value == 100.0
    assert marked.arrays["confusion"].sum() == 7


def test_validation_is_marked_apart():
    data = Data([0, 0, 1], validation=[2, 2, 1, 1, 1])
    marked = examined(Student(lambda token: min(token, 1)), data)
    assert marked.scores["accuracy"].value == 100.0
    assert marked.scores["validation_accuracy"].value == pytest.approx(60)
    assert marked.scores["validation_accuracy"].n == 5


@pytest.mark.parametrize(("right", "learned"), [(500, 0.0), (514, 0.0), (516, 1.0), (400, 0.0)])
def test_a_run_near_the_majority_rate_has_not_learned(right, learned):
    """Of 1,000 examples half are of class 0; the guard is 1.5 points above that."""
    data = Data([0] * 500 + [1] * 300 + [2] * 200)
    places = iter(range(1000))
    labels = [*data.labels["test"].tolist(), 0, 1, 2]

    def answer(token):
        place = next(places, 1000)
        return labels[place] if place < right else (labels[place] + 1) % 3

    marked = examined(Student(answer), data)
    assert marked.scores["accuracy"].value == pytest.approx(right / 10)
    assert marked.scores["learned"].value == learned


def test_what_a_student_counts_is_passed_on():
    class Counting(Student):
        parameter_count, seconds_a_step = 1234, 0.25

    class Untimed(Student):
        parameter_count, seconds_a_step = 7, None

    scores = examined(Counting(lambda token: token), Data([0, 1])).scores
    assert (scores["parameters"].value, scores["seconds_a_step"].value) == (1234, 0.25)
    assert "seconds_a_step" not in examined(Untimed(lambda token: token), Data([0, 1])).scores
    assert "parameters" not in examined(Student(lambda token: token), Data([0, 1])).scores


def test_naming_the_majority_of_real_data_scores_its_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path))
    law = ListopsLaw(max_depth=4, max_args=4, min_length=4, max_length=40)
    data = ListopsData(8, 2, law, train=20, validation=15, test=37, workers=1, length=64)
    data.prepare(STREAMS, {})
    common = data.parts["test"].labels.bincount().argmax()

    class Majority:
        def logits(self, tokens, mask):
            assert tokens.shape == mask.shape == (len(tokens), 64)
            return torch.eye(10)[common].expand(len(tokens), 10)

    scores = examined(Majority(), data).scores
    assert scores["above_majority"].value == pytest.approx(0)
    assert scores["learned"].value == 0
    assert (scores["accuracy"].n, scores["validation_accuracy"].n) == (37, 15)


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (torch.full((3, 3), torch.nan), FloatingPointError, "diverged"),
        (torch.zeros(3, 4), ValueError, r"logits must be \(3, 3\), got \(3, 4\)"),
    ],
)
def test_bad_answers_are_named(answer, error, complaint):
    class Bad:
        def logits(self, tokens, mask):
            return answer

    with pytest.raises(error, match=complaint):
        examined(Bad(), Data([0, 1, 2]))


def test_the_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size"):
        ArenaExam(0)
