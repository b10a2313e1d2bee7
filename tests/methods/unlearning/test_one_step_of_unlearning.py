"""Single steps of the methods that train, against the formulas of their papers."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.boundary import BoundaryExpand, BoundaryShrink, extra_row
from sextant.methods.unlearning.gradient_ascent import NegGrad, NegGradPlus
from sextant.methods.unlearning.problem import Examples
from sextant.methods.unlearning.random_labels import AmnesiacLabels, RandomLabel
from sextant.methods.unlearning.scrub import Scrub, distillation
from tests.unlearning_problem import CLASSES, SPACE, images, problem_of, split, trained

FORGET, RETAIN = split(images(10))
PLAIN = {"epochs": 1, "rate": 1e-2, "momentum": 0.0, "batch_size": 64, "batch_norm": "eval"}


def gradient(loss, model):
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )


def unlearned(method, **changes):
    problem = problem_of(method, forget=FORGET, retain=RETAIN, **changes)
    return method(trained(), problem, Streams(0))


def check_step(model, gradients, rate=1e-2):
    """The model is the trained one after a step of `rate` down the gradients."""
    before = dict(trained().named_parameters())
    for name, value in model.named_parameters():
        torch.testing.assert_close(
            value, before[name] - rate * gradients[name], rtol=1e-4, atol=1e-7
        )


def watch_batches(monkeypatch, kind):
    """Lists what a network is given, batch by batch, whatever method trains it."""
    seen = []
    monkeypatch.setattr(
        f"sextant.methods.unlearning.{kind}.cross_entropy",
        lambda logits, labels, **rest: (
            seen.append(labels.clone()) or cross_entropy(logits, labels, **rest)
        ),
    )
    return seen


def test_ascent_climbs_the_gradient():
    model = trained()
    climbed = gradient(cross_entropy(model(FORGET.inputs), FORGET.labels), model)
    check_step(unlearned(NegGrad(**PLAIN)).model, {name: -g for name, g in climbed.items()})


def test_ascent_against_descent_weighs_two_gradients():
    model = trained()
    kept = gradient(cross_entropy(model(RETAIN.inputs), RETAIN.labels), model)
    forgotten = gradient(cross_entropy(model(FORGET.inputs), FORGET.labels), model)
    expected = {name: 0.8 * kept[name] - 0.2 * forgotten[name] for name in kept}
    check_step(unlearned(NegGradPlus(alpha=0.8, **PLAIN)).model, expected)


def test_every_retained_example_meets_a_forget_set_that_begins_anew_in_another_order():
    """A cycle that is kept would repeat one order, and a plain zip would end with the shorter."""
    method = NegGradPlus(**PLAIN | {"batch_size": 5})
    network, seen = trained(), []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, inputs):
            if self.training:
                seen.append(inputs.detach().sum((1, 2, 3)))
            return self.inner(inputs)

    # The copy the method trains shares the list, which is no part of the module.
    method(Spy(), problem_of(method, forget=FORGET, retain=RETAIN), Streams(0))
    kept, forgotten = torch.cat(seen[0::2]), torch.cat(seen[1::2])
    torch.testing.assert_close(kept.sort().values, RETAIN.inputs.sum((1, 2, 3)).sort().values)
    assert len(forgotten) == 30
    passes = forgotten.split(10)
    for one in passes:
        torch.testing.assert_close(one.sort().values, FORGET.inputs.sum((1, 2, 3)).sort().values)
    assert not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize("redraw", [True, False])
def test_random_labels_are_wrong_and_redrawn_only_when_asked(monkeypatch, redraw):
    seen = watch_batches(monkeypatch, "random_labels")
    many = Examples(FORGET.inputs.repeat(30, 1, 1, 1), FORGET.labels.repeat(30))
    method = RandomLabel(**PLAIN | {"epochs": 2, "batch_size": 300, "redraw": redraw})
    method(trained(), problem_of(method, forget=many, retain=RETAIN), Streams(0))
    first, second = seen
    assert not (torch.cat(seen) == 1).any()
    counts = torch.cat(seen).bincount(minlength=CLASSES)
    assert (counts[[0, 2, 3]] > 150).all()
    # One batch an epoch, in two orders of the same examples: drawn once, the counts are equal.
    assert torch.equal(first.bincount(minlength=4), second.bincount(minlength=4)) != redraw


def test_amnesiac_labels_are_wrong_on_the_forget_set_and_true_elsewhere(monkeypatch):
    seen = watch_batches(monkeypatch, "random_labels")
    unlearned(AmnesiacLabels(epochs=2))
    for epoch in seen:
        # 30 retained examples, 10 of each class, and 10 more that are of none of class 1.
        counts = epoch.bincount(minlength=CLASSES)
        assert counts.sum() == 40
        assert counts[1] == 0
        assert (counts[[0, 2, 3]] >= 10).all()
    assert torch.equal(seen[0].bincount(), seen[1].bincount())


def test_shrinking_trains_towards_what_a_step_in_pixels_reaches(monkeypatch):
    seen = watch_batches(monkeypatch, "random_labels")
    model = trained()
    pixels = SPACE.to_pixels(FORGET.inputs).requires_grad_()
    cross_entropy(model(SPACE.to_inputs(pixels)), FORGET.labels).backward()
    moved = (pixels + 0.3 * pixels.grad.sign()).clamp(0, 1).detach()
    reached = model(SPACE.to_inputs(moved)).argmax(1)
    second = model(FORGET.inputs).topk(2).indices
    fallback = torch.where(second[:, 0] == 1, second[:, 1], second[:, 0])
    expected = torch.where(reached == 1, fallback, reached)
    assert (reached != 1).any()
    unlearned(BoundaryShrink(**PLAIN | {"epsilon": 0.3}))
    assert torch.equal(seen[0].bincount(minlength=4), expected.bincount(minlength=4))
    gradients = gradient(cross_entropy(model(FORGET.inputs), expected), model)
    monkeypatch.undo()
    check_step(unlearned(BoundaryShrink(**PLAIN | {"epsilon": 0.3})).model, gradients)
    with pytest.raises(ValueError, match="space must be given"):
        unlearned(BoundaryShrink(), space=None)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_expanding_is_training_a_wider_head_and_dropping_the_row(mode):
    method = BoundaryExpand(**PLAIN | {"epochs": 3, "momentum": 0.9, "batch_norm": mode})
    found = unlearned(method).model
    wide = trained()
    row = extra_row(wide[8], Streams(0).generator("boundary expand/row"))
    head = nn.Linear(48, CLASSES + 1)
    with torch.no_grad():
        head.weight.copy_(torch.cat((wide[8].weight, row.weight)))
        head.bias.copy_(torch.cat((wide[8].bias, row.bias)))
    wide[8] = head
    optimizer = torch.optim.SGD(wide.parameters(), 1e-2, momentum=0.9)
    wide.train(mode == "train")
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(wide(FORGET.inputs), torch.full((10,), CLASSES)).backward()
        optimizer.step()
    wide.eval()
    data = images(3, seed=5).inputs
    assert found(data).shape == (12, CLASSES)
    torch.testing.assert_close(found(data), wide(data)[:, :CLASSES], rtol=1e-3, atol=1e-4)
    assert [tuple(v.shape) for v in found.state_dict().values()] == [
        tuple(v.shape) for v in trained().state_dict().values()
    ]


def test_the_extra_row_is_xaviers():
    head = nn.Linear(4000, 10, dtype=torch.float64)
    row = extra_row(head, torch.Generator().manual_seed(0))
    bound = (6 / (4000 + 11)) ** 0.5
    assert row.weight.abs().max() <= bound
    # A uniform variable on (-b, b) has variance b^2 / 3; 4000 draws are within a tenth of it.
    assert row.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.1)
    assert row.weight.dtype == torch.float64
    assert row.bias.item() == 0.0
    assert extra_row(nn.Linear(3, 2, bias=False), torch.Generator()).bias is None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_is_scipys_divergence(temperature):
    teacher, student = torch.randn(2, 6, 5, dtype=torch.float64)
    taught, found = (softmax(x.numpy() / temperature, 1) for x in (teacher, student))
    expected = temperature**2 * rel_entr(taught, found).sum(1).mean()
    assert distillation(teacher, student, temperature).item() == pytest.approx(expected)
    assert distillation(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


def test_scrub_minimises_cross_entropy_and_divergence_on_the_retained_data():
    # The retained batch alone: at the teacher itself the divergence has no gradient, so two steps.
    method = Scrub(
        **PLAIN | {"epochs": 2, "optimizer": "sgd", "weight_decay": 0.0, "ascents": 0}, gamma=0.7
    )
    found = unlearned(method).model
    model = trained()
    taught = model(RETAIN.inputs).detach().double().numpy()
    for _ in range(2):
        logits = model(RETAIN.inputs)
        # d/dz of T^2 KL(softmax(t/T) || softmax(z/T)) is T (softmax(z/T) - softmax(t/T)).
        z = logits.detach().double().numpy()
        truth = np.eye(CLASSES)[RETAIN.labels.numpy()]
        by_hand = 0.7 * (softmax(z, 1) - truth)
        by_hand += 0.5 * 2.0 * (softmax(z / 2, 1) - softmax(taught / 2, 1))
        model.zero_grad()
        logits.backward(torch.from_numpy(by_hand / len(RETAIN)).float())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-2 * parameter.grad
    for name, value in model.named_parameters():
        torch.testing.assert_close(
            dict(found.named_parameters())[name], value, rtol=1e-4, atol=1e-6
        )


def test_scrub_ascends_before_it_descends():
    """Ascents of the first epochs come first, each before all descents of its epoch."""
    kinds = []

    class Spied(Scrub):
        def run(self, model, batches, loss, *rest, **more):
            kinds.extend([[kind for kind, *_ in batches(epoch)] for epoch in (1, 2, 3)])
            kinds.append(loss(model, next(iter(batches(1)))).item())
            return super().run(model, batches, loss, *rest, **more)

    spied = Spied(epochs=4, ascents=2, batch_size=10, forget_batch_size=5, rate=1e-4)
    found = unlearned(spied)
    both = ["forget"] * 2 + ["retain"] * 3
    assert kinds[:3] == [both, both, ["retain"] * 3]
    # At the teacher there is no divergence yet.
    assert kinds[3] == pytest.approx(0, abs=1e-6)
    assert found.report["steps"] == 5 + 5 + 3 + 3


def test_an_ascent_of_scrub_climbs_the_divergence():
    """In training mode, where batch statistics set the student apart from its teacher at once."""
    settings = {"optimizer": "sgd", "weight_decay": 0.0, "batch_norm": "train"}
    found = unlearned(Scrub(**PLAIN | settings, gamma=0.0, alpha=0.0)).model
    model = trained()
    taught = model(FORGET.inputs).detach().double().numpy()
    logits = model.train()(FORGET.inputs)
    z = logits.detach().double().numpy()
    climbed = 2.0 * (softmax(z / 2, 1) - softmax(taught / 2, 1)) / len(FORGET)
    logits.backward(torch.from_numpy(climbed).float())
    check_step(found, {name: -value.grad for name, value in model.named_parameters()})
