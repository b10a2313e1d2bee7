"""What a method is handed by the student that wraps it, and what the student answers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sextant.contracts import Streams
from sextant.methods.unlearning.problem import Needs, NotDeclared, Unlearned
from sextant.methods.unlearning.student import UnlearningStudent, first_of_each, redrawn

CLASSES = 3


def network():
    torch.manual_seed(0)
    body = (nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten())
    model = nn.Sequential(*body, nn.Linear(16, CLASSES))
    model(torch.randn(8, 2, 4, 4))  # moves the running statistics
    return model.eval()


class Problem:
    classes, forgotten_classes, channels, mean, deviation = CLASSES, (1,), 2, 0.5, 0.25

    def __init__(self):
        self.asked = []

    def examples(self, part):
        self.asked.append(part)
        labels = torch.tensor([1] * 6 if part == "forgotten" else [0, 2, 2, 0, 2, 2])
        return labels[:, None, None, None] * torch.ones(6, 2, 4, 4), labels

    def watch(self, model):
        return {"seen": float(next(model.parameters()).detach().sum())}


class Remembers:
    """A method that looks at what it is allowed and doubles the head."""

    def __init__(self, **needs):
        self.needs = Needs(**needs)

    def __call__(self, model, problem, streams, watch=None):
        self.problem = problem
        changed = network()
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            changed[3].weight *= 2
            changed[3].bias *= 2
        return Unlearned(changed, {"updates": 0.1}, {}, [{"epoch": 1, **watch(1, changed)}])


def begun(seed=0, subset_each=1, **needs):
    student = UnlearningStudent(Remembers(**needs), subset_each)
    original, data = network(), Problem()
    parent = SimpleNamespace(load=lambda: SimpleNamespace(network=original))
    student.prepare(Streams(seed), {"original": parent}, data)
    return student, original, data


def test_it_answers_with_the_model_that_forgot():
    student, original, _ = begun()
    inputs = torch.randn(1100, 2, 4, 4)
    torch.testing.assert_close(student.logits(inputs), 2 * original(inputs).detach())
    assert not student.logits(inputs).requires_grad
    assert student.unlearned.seconds == {"updates": 0.1}
    expected = float(original[0].weight.detach().sum())
    assert student.unlearned.curve == [{"epoch": 1, "seen": pytest.approx(expected)}]


def test_a_method_without_needs_loads_nothing():
    student, _, data = begun(forget=False)
    assert data.asked == []
    with pytest.raises(NotDeclared, match="forget is not handed over"):
        _ = student.method.problem.forget


@pytest.mark.parametrize(("retain", "size"), [("all", 6), ("subset", 2)])
def test_retained_examples_are_all_or_some_of_every_class(retain, size):
    student, _, data = begun(retain=retain)
    retained = student.method.problem.retain
    assert len(retained) == size
    assert set(retained.labels.tolist()) == {0, 2}
    assert data.asked == ["retained"]
    assert student.method.problem.forget.labels.unique().tolist() == [1]


def test_inputs_are_explained():
    space = begun()[0].method.problem.space
    assert space.lowest.flatten().tolist() == [-2.0, -2.0]
    assert space.highest.flatten().tolist() == [2.0, 2.0]


def test_a_fresh_model_is_the_seeds_and_no_copy():
    inputs = torch.randn(5, 2, 4, 4)
    (student, original, _), (again, *_), (other, *_) = begun(1), begun(1), begun(2)
    assert torch.equal(student.fresh_logits(inputs), again.fresh_logits(inputs))
    assert not torch.equal(student.fresh_logits(inputs), other.fresh_logits(inputs))
    assert not torch.allclose(student.fresh_logits(inputs), original(inputs))
    fresh = redrawn(original)
    assert fresh[1].running_mean.abs().max() == 0
    assert original[1].running_mean.abs().max() > 0


def test_a_network_draws_its_parts_by_its_own_law():
    class Zeroed(nn.Sequential):
        def reset_parameters(self):
            nn.init.zeros_(self[0].weight)

    fresh = redrawn(nn.Sequential(Zeroed(nn.Linear(2, 2)), nn.Linear(2, 2)))
    assert fresh[0][0].weight.abs().max() == 0
    assert fresh[1].weight.abs().max() > 0


def test_parameters_that_nobody_draws_are_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    with pytest.raises(ValueError, match=r"model\.0 has parameters and no reset_parameters"):
        redrawn(nn.Sequential(Scaled()))


def test_the_first_of_each_class_are_taken_in_order():
    examples = begun(retain="all")[0].method.problem.retain
    chosen = first_of_each(examples, 2)
    assert chosen.labels.tolist() == [0, 2, 2, 0]
    with pytest.raises(ValueError, match="subset_each must be at least 1, got 0"):
        UnlearningStudent(Remembers(), 0)
