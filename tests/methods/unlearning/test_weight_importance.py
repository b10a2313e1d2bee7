"""Methods that ask which weights matter: SalUn, SSD, Fisher forgetting; and amnesiac unlearning."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.amnesiac import Amnesiac, UpdateRecorder
from sextant.methods.unlearning.dampening import SelectiveSynapticDampening, importance
from sextant.methods.unlearning.fisher import FisherForgetting, fisher_diagonal, noise_variance
from sextant.methods.unlearning.problem import Examples, Problem, forget_accuracy
from sextant.methods.unlearning.saliency import SalUn, gradient_sizes, salient
from tests.unlearning_problem import (
    CLASSES,
    images,
    network,
    problem_of,
    same,
    split,
    trained,
    weights,
)

FORGET, RETAIN = split(images(6))
EVERYTHING = FORGET.joined(RETAIN)


def gradients(model, inputs, labels, reduction="mean"):
    """By backward, one call."""
    model.zero_grad()
    cross_entropy(model(inputs), labels, reduction=reduction).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def unlearned(method, model=None, forget=FORGET, retain=RETAIN, seed=0, **changes):
    problem = problem_of(method, forget=forget, retain=retain, **changes)
    return method(trained() if model is None else model, problem, Streams(seed))


def test_the_mask_is_that_of_the_summed_gradient():
    model = trained()
    total = {name: 0 for name, _ in model.named_parameters()}
    for row in range(len(FORGET)):
        one = gradients(model, FORGET.inputs[row : row + 1], FORGET.labels[row : row + 1])
        total = {name: total[name] + one[name] for name in total}
    found = gradient_sizes(model, FORGET, batch_size=4)
    for name, value in total.items():
        torch.testing.assert_close(found[name], value.abs(), rtol=1e-4, atol=1e-9)
    masks = salient(found, 0.3)
    sizes = np.concatenate([value.flatten().numpy() for value in found.values()])
    chosen = np.concatenate([value.flatten().numpy() for value in masks.values()])
    assert chosen.sum() == round(0.3 * len(sizes))
    assert sizes[chosen].min() >= sizes[~chosen].max()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_outside_the_mask_stay_bit_for_bit(optimizer):
    """Weight decay and momentum are where masked gradients alone would leak."""
    method = SalUn(
        epochs=3, optimizer=optimizer, weight_decay=0.1, batch_size=8, batch_norm="eval", share=0.3
    )
    model, optimizers = trained(), []

    class Kept(SalUn):
        def make_optimizer(self, parameters):
            optimizers.append(super().make_optimizer(parameters))
            return optimizers[-1]

    kept = Kept(**{name: getattr(method, name) for name in SalUn.__dataclass_fields__})
    found = unlearned(kept, model)
    masks = salient(gradient_sizes(model, FORGET, 8), 0.3)
    state = optimizers[0].state
    for name, value in found.model.named_parameters():
        before = dict(model.named_parameters())[name]
        assert torch.equal(value[~masks[name]], before[~masks[name]])
        averages = [
            entry for entry in state[value].values() if getattr(entry, "shape", ()) == value.shape
        ]
        assert averages
        assert all((entry[~masks[name]] == 0).all() for entry in averages)
    moved = torch.cat(
        [
            (value != before)[masks[name]]
            for (name, value), before in zip(
                found.model.named_parameters(), model.parameters(), strict=True
            )
        ]
    )
    assert moved.double().mean() > 0.9
    assert found.report["moving_weights"] == len(moved) == round(0.3 * found.report["weights"])


def test_importance_is_the_mean_over_batches_of_the_squared_gradient():
    model = trained()
    found = importance(model, FORGET, 4)
    parts = [gradients(model, *batch) for batch in FORGET.batches(4)]
    for name, value in found.items():
        expected = sum(part[name].square() for part in parts) / 2
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-12)
    # Not the mean over examples, and so another number at another batch size.
    single = importance(model, FORGET, 1)
    assert single["8.weight"].sum() > 1.05 * found["8.weight"].sum()


def test_dampening_shrinks_the_weights_of_its_rule():
    method = SelectiveSynapticDampening(alpha=1.5, dampening=0.7, batch_size=1)
    model = trained()
    found = unlearned(method, model)
    # With batches of one the order of the data does not matter.
    selected = 0
    mean = {}
    for key, data in (("forget", FORGET), ("all", EVERYTHING)):
        parts = [gradients(model, *batch) for batch in data.batches(1)]
        mean[key] = {n: np.mean([p[n].numpy() ** 2 for p in parts], 0) for n in parts[0]}
    for name, value in found.model.named_parameters():
        before = dict(model.named_parameters())[name].detach().numpy()
        own, whole = mean["forget"][name], mean["all"][name]
        chosen = own > 1.5 * whole
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(chosen, np.minimum(0.7 * whole / own, 1), 1)
        np.testing.assert_allclose(value.detach().numpy(), before * factor, rtol=1e-4, atol=1e-7)
        selected += chosen.sum()
    assert found.report["selected_weights"] == selected > 0


def test_dampening_leaves_what_it_must():
    model = trained()
    for method in (
        SelectiveSynapticDampening(alpha=1.0, dampening=1e9),
        SelectiveSynapticDampening(alpha=1e9),
    ):
        assert same(weights(unlearned(method, model).model), weights(model))
    # Forget set and all data of one importance: alpha = 1 selects none.
    again = SelectiveSynapticDampening(alpha=1.0 + 1e-4, batch_size=1)
    assert same(
        weights(unlearned(again, model, forget=FORGET, retain=FORGET).model), weights(model)
    )


def test_the_fisher_diagonal_is_that_of_every_example_and_class():
    model, data = trained(), EVERYTHING
    total = {name: 0.0 for name, _ in model.named_parameters()}
    for row in range(len(data)):
        log_probabilities = model(data.inputs[row : row + 1]).log_softmax(1)[0]
        for log_probability in log_probabilities:
            parts = torch.autograd.grad(
                log_probability, list(model.parameters()), retain_graph=True
            )
            weight = log_probability.exp().item() / len(data)
            for name, part in zip(total, parts, strict=True):
                total[name] = total[name] + weight * part.square()
    found = fisher_diagonal(model.train(), data, chunk=7)
    assert model.training
    for name, value in total.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-10)
    blind = fisher_diagonal(model, data.relabelled(torch.zeros_like(data.labels)), chunk=24)
    torch.testing.assert_close(blind, found, rtol=1e-3, atol=1e-10)


class WideAsItsHead(nn.Module):
    """A convolution that happens to have as many channels as there are classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, CLASSES, 3)
        self.head = nn.Linear(CLASSES, CLASSES)

    def forward(self, inputs):
        return self.head(self.conv(inputs).mean((2, 3)))


def test_only_the_row_of_the_head_is_emptied():
    """By the number of rows alone, the convolution would be taken for the head."""
    model, method = WideAsItsHead(), FisherForgetting(alpha=0.0)
    found = unlearned(method, model).model
    assert torch.equal(found.conv.weight, model.conv.weight)
    assert torch.equal(found.conv.bias, model.conv.bias)
    others = [0, 2, 3]
    assert torch.equal(found.head.weight[others], model.head.weight[others])
    assert torch.equal(found.head.bias[others], model.head.bias[others])
    # Variance 1e-4, ten times that in the head.
    assert 0 < found.head.weight[1].abs().max() < 5 * 1e-3**0.5
    subset = unlearned(method, model, forgotten_classes=())
    assert same(weights(subset.model), weights(model))


def test_fisher_noise_has_the_variance_of_its_rule():
    generator = torch.Generator().manual_seed(0)
    fisher = 10.0 ** (8 * torch.rand(5, 3, 2, 2, generator=generator) - 6)
    expected = 0.1 * np.minimum(1 / (fisher.double().numpy() + 1e-8), 1e3).mean(1, keepdims=True)
    found = noise_variance(fisher, 0.1, head=False)
    assert found.shape == fisher.shape
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(expected, fisher.shape), rtol=1e-5)
    head = noise_variance(torch.zeros(4, 3), 0.1, head=True)
    torch.testing.assert_close(head, torch.full((4, 3), 0.1 * 1e2))
    torch.testing.assert_close(
        noise_variance(torch.tensor([0.0, 0.5]), 1.0, head=False), torch.tensor([1e3, 2.0])
    )
    # Over seeds, the noise on one weight has that variance: 60 draws of 9 x 4 equal ones.
    model = WideAsItsHead()
    method = FisherForgetting(alpha=1e-3)
    few = Examples(RETAIN.inputs[:2], RETAIN.labels[:2])
    of_bias = fisher_diagonal(model, few)["conv.bias"]
    draws = torch.stack(
        [unlearned(method, model, retain=few, seed=seed).model.conv.bias for seed in range(60)]
    )
    standard = (draws - model.conv.bias) / (noise_variance(of_bias, 1e-3, False) * 10).sqrt()
    assert standard.std().item() == pytest.approx(1, abs=0.15)
    assert standard.mean().item() == pytest.approx(0, abs=0.2)


def recorded(watched=None, seed=0, epochs=2, batch=6):
    """A network before and after training, and what was recorded."""
    model = network(seed).double()
    before = copy.deepcopy(model)
    recorder = UpdateRecorder(model, watched)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    batches = []
    for epoch in range(epochs):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(batch):
            optimizer.zero_grad()
            inputs = EVERYTHING.inputs[rows].double()
            cross_entropy(model(inputs), EVERYTHING.labels[rows]).backward()
            with recorder.step(rows.tolist()):
                optimizer.step()
            batches.append(set(rows.tolist()))
    return before, model, recorder.log(), batches


def take_back(model, log):
    return Amnesiac()(
        model, Problem.of(Amnesiac.needs, classes=CLASSES, training_log=log), Streams(0)
    )


def test_taking_back_every_step_gives_the_initial_weights():
    before, model, log, batches = recorded()
    found = take_back(model, log)
    assert found.report == {"subtracted_steps": 8, "training_steps": 8}
    assert len(log.updates) == len(batches)
    moved = 0.0
    for name, value in found.model.named_parameters():
        start = dict(before.named_parameters())[name]
        torch.testing.assert_close(value, start, rtol=0, atol=1e-14)
        moved = max(moved, (dict(model.named_parameters())[name] - start).abs().max().item())
    assert moved > 1e-2
    # Running statistics are no sums of steps.
    assert torch.equal(found.model[1].running_mean, model[1].running_mean)
    assert not torch.equal(model[1].running_mean, before[1].running_mean)


def test_only_steps_that_held_an_example_are_recorded_and_taken_back():
    forgotten = {3, 4}
    _, model, whole, batches = recorded()
    _, _, watched, _ = recorded(watched=forgotten)
    held = [bool(batch & forgotten) for batch in batches]
    assert 0 < sum(held) < len(held)
    part = whole.holding(forgotten)
    assert len(part.updates) == len(watched.updates) == sum(held)
    assert watched.steps == len(batches)
    found = take_back(model, part).model
    for name, value in found.named_parameters():
        expected = dict(model.named_parameters())[name].detach().clone()
        for update, chosen in zip(whole.updates, held, strict=True):
            if chosen:
                expected -= update.changes[name]
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-14)
    assert same(weights(found), weights(take_back(model, watched).model))
    assert not whole.holding([99]).updates


def test_a_log_of_another_model_is_refused():
    _, _, log, _ = recorded()
    with pytest.raises(ValueError, match="training_log must be of this model"):
        take_back(WideAsItsHead(), log)


def test_dampening_forgets_more_than_it_ruins():
    method, model = SelectiveSynapticDampening(alpha=2.0, dampening=0.3, batch_size=8), trained()
    found = unlearned(method, model).model
    assert forget_accuracy(found, FORGET) < forget_accuracy(found, RETAIN)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (SelectiveSynapticDampening, {"alpha": -1.0}),
        (SelectiveSynapticDampening, {"batch_size": 0}),
        (FisherForgetting, {"alpha": -1e-6}),
        (FisherForgetting, {"chunk": 0}),
        (SalUn, {"share": 0.0}),
    ],
)
def test_refused_settings_of_importance(method, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        method(**setting)
