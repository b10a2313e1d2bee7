"""The likelihood-ratio attack as an exam, on models whose confidence is known."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import norm

from sextant.contracts import Streams
from tasks.unlearning.shadow_models import LikelihoodExam

PICTURES, MODELS = 300, 8
STREAMS = Streams(3)


class Model:
    """Answers with two logits whose difference, its confidence in class 1, is normal."""

    def __init__(self, number, mean=0.0):
        generator = torch.Generator().manual_seed(number)
        self.confidence = mean + torch.randn(PICTURES, generator=generator)

    def logits(self, inputs):
        return torch.stack((torch.zeros(PICTURES), self.confidence), 1)


class Student:
    """Unlearns a model by moving its confidence; notes what it was handed."""

    def __init__(self, move):
        self.move, self.handed, self.seeds = move, [], []

    def prepare(self, streams, parents, data):
        self.handed.append(dict(parents))
        self.seeds.append(streams.seed)
        self.model = parents["original"].load()

    def logits(self, inputs):
        answers = self.model.logits(inputs)
        answers[:, 1] += self.move
        return answers


def parent(model):
    return SimpleNamespace(load=lambda: model)


def models(trained=MODELS, retrained=MODELS):
    named = {"original": parent(Model(0, 1.0)), "inverted": parent("images 0")}
    for number in range(1, trained):
        named[f"original_{number}"] = parent(Model(number, 1.0))
        named[f"inverted_{number}"] = parent(f"images {number}")
    return named | {f"retrained_{n}": parent(Model(1000 + n)) for n in range(retrained)}


def examined(move, parents=None):
    parents = parents or models()
    data = SimpleNamespace(
        examples=lambda part: (torch.zeros(PICTURES), torch.ones(PICTURES, dtype=torch.int64))
    )
    student = Student(move)
    student.prepare(STREAMS, parents, data)
    return LikelihoodExam().examine(student, data, STREAMS, parents), student


@pytest.mark.parametrize(("move", "distance"), [(0.0, 1.0), (-1.0, 0.0), (1.0, 2.0)])
def test_the_area_is_that_of_two_normal_laws(move, distance):
    found, _ = examined(move)
    # The means of six shadows are noisy, which costs the attack a little of the ideal area.
    ideal = 100 * norm.cdf(distance / 2**0.5)
    assert found.scores["u_lira"].value == pytest.approx(ideal, abs=4.0)
    assert found.arrays["confidence_forgot"].shape == (MODELS, PICTURES)


def test_forgetting_is_scored_higher_and_the_gap_lower_where_models_are_alike():
    alike, apart = (examined(move)[0].scores for move in (-1.0, 4.0))
    assert alike["forgetting_score"].value > apart["forgetting_score"].value
    assert apart["confidence_gap"].value == pytest.approx(5.0, abs=0.2)
    assert apart["u_lira_true_positives"].value > 90 > alike["u_lira_true_positives"].value


def test_every_model_is_unlearned_once_with_its_own_images_and_randomness():
    _, student = examined(-1.0)
    handed = [parents["inverted"].load() for parents in student.handed]
    assert handed == [f"images {number}" for number in range(MODELS)]
    assert all(set(parents) == {"original", "inverted"} for parents in student.handed[1:])
    assert len(set(student.seeds)) == MODELS


def test_a_missing_retrained_model_is_named():
    with pytest.raises(KeyError, match="retrained_7"):
        examined(0.0, models(retrained=7))
