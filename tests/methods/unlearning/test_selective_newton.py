"""L-CODEC: which outputs are moved, by which step, and that examples are removed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.library import unlearn
from sextant.methods.unlearning.problem import Examples
from sextant.methods.unlearning.selective_newton import (
    SelectiveNewton,
    example_gradients,
    newton_step,
    sliced_layers,
)
from tests.unlearning_problem import images, part, problem_of, split, trained, weights

FORGET, RETAIN = split(images(12))


def test_each_example_has_its_own_gradient():
    model, some = trained(), images(3)
    found = example_gradients(model, some)
    assert set(found) == {"0.weight", "3.weight", "3.bias", "8.weight", "8.bias"}
    for row in range(len(some)):
        model.zero_grad()
        cross_entropy(model(some.inputs[row : row + 1]), some.labels[row : row + 1]).backward()
        for name, value in found.items():
            torch.testing.assert_close(
                value[row], model.get_parameter(name).grad, rtol=1e-4, atol=1e-6
            )


@pytest.mark.parametrize(("rows", "width"), [(5, 12), (30, 4)])
def test_the_step_solves_the_damped_system(rows, width):
    generator = torch.Generator().manual_seed(rows)
    samples = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    gradient = torch.randn(width, generator=generator, dtype=torch.float64)
    matrix = samples.T @ samples / rows + 0.03 * torch.eye(width, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(newton_step(gradient, samples, 0.03), expected)


class Doubtful(nn.Module):
    """Logits of two classes from three outputs, of which the last alone reaches them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = nn.Linear(3, 3)
        with torch.no_grad():
            self.outputs.weight.copy_(torch.eye(3))

    def forward(self, inputs):
        last = self.outputs(inputs)[:, 2]
        return torch.stack((last, -last), 1)


def test_the_outputs_behind_the_loss_are_found():
    group = Examples(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    method = SelectiveNewton(perturbations=100)
    chosen = method.relevant(Doubtful().eval(), group, torch.Generator().manual_seed(0))
    assert chosen[0] == ("outputs", 2)


def test_only_what_is_selected_moves():
    model, few = trained(), part(FORGET, torch.arange(5))
    selected = []

    class Told(SelectiveNewton):
        def relevant(self, *arguments):
            found = super().relevant(*arguments)[:1]
            selected.extend(found)
            return found

    method = Told(perturbations=20, curvature=10)
    found = method(model, problem_of(method, forget=few, retain=RETAIN), Streams(0))
    assert len(selected) == found.report["examples"] == 5
    before, after = weights(model), weights(found.model)
    touched = {f"{layer}.{kind}" for layer, _ in selected for kind in ("weight", "bias")}
    for name, value in after.items():
        rows = {place for layer, place in selected if name.startswith(f"{layer}.")}
        moved = set() if name not in touched else rows
        if value.ndim:
            for row in range(len(value)):
                assert torch.equal(value[row], before[name][row]) == (row not in moved), name
        else:
            assert torch.equal(value, before[name])
    assert found.report["selected_outputs"] == len(set(selected))
    assert found.report["outputs"] == sum(len(one.weight) for _, one in sliced_layers(model))


def fitted(examples, penalty=1e-3):
    """The minimum of mean cross-entropy with a ridge, by L-BFGS in float64."""
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        ridge = sum((value**2).sum() for value in model.parameters())
        value = cross_entropy(model(examples.inputs), examples.labels) + penalty / 2 * ridge
        value.backward()
        return value

    optimizer.step(loss)
    return model.eval()


def test_removing_examples_goes_towards_the_model_that_never_saw_them():
    """A logistic regression: its retrained minimum is known, and the steps end closer to it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    logits = inputs @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    drawn = torch.rand(300, generator=generator, dtype=torch.float64) < logits.sigmoid()
    examples = Examples(inputs, drawn.long())
    gone = torch.zeros(300, dtype=torch.bool)
    gone[:15] = True
    forget, retain = part(examples, gone), part(examples, ~gone)
    trained_model, retrained = fitted(examples), fitted(retain)
    method = SelectiveNewton(perturbations=50, damping=1e-3, curvature=300, noise=1.0)
    problem = problem_of(
        method, forget=forget, retain=retain, classes=2, forgotten_classes=(), space=None
    )
    found = method(trained_model, problem, Streams(0)).model

    def distance(model):
        """Of what the models say; their parameters can differ by what softmax does not see."""
        margins = [one(inputs)[:, 1] - one(inputs)[:, 0] for one in (model, retrained)]
        return float((margins[0] - margins[1]).detach().square().mean().sqrt())

    assert distance(found) < 0.3 * distance(trained_model)


def test_the_more_is_removed_the_worse_it_is_known():
    model = trained()
    losses = []
    for damping in (1.0, 0.1, 0.01):
        method = SelectiveNewton(perturbations=30, damping=damping, curvature=30)
        found = method(copy.deepcopy(model), problem_of(method, FORGET, RETAIN), Streams(0)).model
        losses.append(float(cross_entropy(found(FORGET.inputs), FORGET.labels)))
    before = float(cross_entropy(model(FORGET.inputs), FORGET.labels))
    assert before < losses[0] < losses[1] < losses[2]


def test_a_person_who_waits_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sextant.methods.unlearning.progress.PATIENCE", 0.0)
    unlearn(
        trained(), part(FORGET, torch.arange(2)), "lcodec",
        retained=RETAIN, perturbations=10, curvature=5, classes=(), progress=True,
    )  # fmt: skip
    assert "removing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"perturbations": 2}, "perturbations must be at least 3"),
        ({"curvature": 0}, "curvature must be at least 1"),
        ({"noise": 0.0}, "noise must be positive"),
        ({"damping": float("inf")}, "damping must be positive"),
    ],
)
def test_settings_are_checked(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        SelectiveNewton(**setting)
