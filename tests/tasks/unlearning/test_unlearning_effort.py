"""What unlearning and relearning cost, on small linear models."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sextant.contracts import Streams
from tasks.unlearning.scoring import ForgettingExam

SIZES = {"retained": 60, "forgotten": 40, "test_retained": 60, "test_forgotten": 40}


class Blobs:
    """Three well separated classes in the plane; class 2 is forgotten."""

    forgotten_classes = (1,)

    def examples(self, part):
        generator = torch.Generator().manual_seed(len(part))
        forgotten = part.endswith("forgotten")
        labels = torch.full((SIZES[part],), 2) if forgotten else torch.arange(SIZES[part]) % 2
        centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 6.0]])
        return centres[labels] + 0.3 * torch.randn(SIZES[part], 2, generator=generator), labels


class Model:
    """Logits of a linear layer that leans towards or away from class 2."""

    def __init__(self, lean, **more):
        self.network = self.model = nn.Linear(2, 3)
        with torch.no_grad():
            self.network.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
            self.network.bias.copy_(torch.tensor([0.0, 0.0, lean]))
        vars(self).update(more)

    def logits(self, inputs):
        with torch.no_grad():
            return self.network(inputs)


def parent(model, steps=500):
    spec = {"budget": {"steps": steps, "batch_size": 16}}
    return SimpleNamespace(load=lambda: model, spec=spec)


def scores(student, **settings):
    parents = {"original": parent(Model(0.0)), "retrained": parent(Model(-30.0))}
    exam = ForgettingExam(**settings)
    return exam.examine(student, Blobs(), Streams(0), parents).scores


def unlearned(**seconds):
    return SimpleNamespace(seconds=seconds, curve=[])


def test_twice_the_time_is_half_the_speed_up():
    slow, fast = (
        scores(Model(-30.0, unlearned=unlearned(updates=seconds)))["speed_up"].value
        for seconds in (200.0, 2.0)
    )
    assert 0 < slow < 1
    # Both price the retraining themselves, and a small step's time is not always the same.
    assert 10 < fast / slow < 1000


@pytest.mark.parametrize("student", [Model(0.0), Model(0.0, unlearned=unlearned())])
def test_a_model_that_did_nothing_has_no_speed_up(student):
    assert "speed_up" not in scores(student)


def test_relearning_is_counted_in_steps_and_against_the_retrained_model():
    # A lean of -30 takes thousands of small steps to undo, and one of -5.5 a few.
    found = {lean: scores(Model(lean), relearning=60) for lean in (0.0, -5.5, -30.0)}
    steps = {lean: of["relearning_steps"].value for lean, of in found.items()}
    assert steps[0.0] == 0
    assert 0 < steps[-5.5] < 60
    assert steps[-30.0] == 60
    assert found[-30.0]["anamnesis"].value == pytest.approx(1.0)
    assert found[-5.5]["anamnesis"].value == pytest.approx(steps[-5.5] / 60)


def test_relearning_is_not_tried_where_it_is_not_asked_for():
    assert not {"relearning_steps", "anamnesis"} & set(scores(Model(0.0)))


def test_relearning_needs_a_step():
    with pytest.raises(ValueError, match="relearning must be at least 1, got 0"):
        ForgettingExam(relearning=0)
