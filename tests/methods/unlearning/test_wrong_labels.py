"""Wrong labels against numpy on tables of logits, and the step in pixels against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.methods.unlearning.problem import PixelSpace
from sextant.methods.unlearning.wrong_labels import (
    fgsm_nearest,
    fgsm_step,
    frozen,
    least_probable,
    random_other,
    second_best,
    wrong_labels,
)
from tests.unlearning_problem import SPACE, images, trained

RULES = ("second_best", "fgsm_nearest", "random_other", "least_probable")


class Table(nn.Module):
    """Gives its inputs (n, K) back as logits."""

    def forward(self, inputs):
        return inputs


class Shifted(nn.Module):
    """A model with a constant added to all of its logits."""

    def __init__(self, model, constant):
        super().__init__()
        self.model, self.constant = model, constant

    def forward(self, inputs):
        return self.model(inputs) + self.constant


@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_most_and_least_probable_are_those_of_a_sorted_list(seed, classes, count):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, classes))
    labels = generator.integers(0, classes, count)
    most, least = [], []
    for row, label in zip(logits, labels, strict=True):
        others = [k for k in np.argsort(row) if k != label]
        most.append(others[-1])
        least.append(others[0])
    inputs, true = torch.from_numpy(logits), torch.from_numpy(labels)
    assert second_best(Table(), inputs, true, batch_size=3).tolist() == most
    assert least_probable(Table(), inputs, true, batch_size=3).tolist() == least
    right = logits.argmax(1) != labels
    assert np.array_equal(np.array(most)[right], logits.argmax(1)[right])


def test_random_classes_are_uniform_over_the_others():
    labels = torch.arange(5).repeat(4000)
    drawn = random_other(labels, 5, torch.Generator().manual_seed(0))
    counts = torch.zeros(5, 5)
    counts.index_put_((labels, drawn), torch.ones(len(labels)), accumulate=True)
    assert counts.diagonal().sum() == 0
    expected = 1000 * (1 - torch.eye(5))
    # Five standard deviations of a binomial count of 4,000 draws at one quarter.
    assert (counts - expected).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_gives_the_true_label_and_the_model_stays(rule):
    model, examples = trained().train(), images(20, seed=3)
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def labels(network, seed=0):
        given_generator = torch.Generator().manual_seed(seed)
        return wrong_labels(
            rule, network, examples.inputs, examples.labels, SPACE, given_generator, 32
        )

    found = labels(model)
    assert found.dtype == torch.int64
    assert not (found == examples.labels).any()
    assert set(found.tolist()) <= set(range(4))
    assert torch.equal(found, labels(Shifted(model, 3.0)))
    assert torch.equal(found, labels(model))
    if rule == "random_other":
        assert not torch.equal(found, labels(model, seed=1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    wishes = [parameter.requires_grad for parameter in model.parameters()]
    assert wishes == [False] + [True] * (len(wishes) - 1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_sign_step_is_one_of_pixels_whatever_the_normalisation():
    """The same network on pixels and on normalised inputs: the same images, the same labels."""

    class OnPixels(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(SPACE.to_inputs(pixels))

    model, examples = trained(), images(20, seed=4)
    pixels = SPACE.to_pixels(examples.inputs).double()
    wanted = pixels.clone().requires_grad_()
    network = OnPixels(model).double()
    cross_entropy(network(wanted), examples.labels).backward()
    by_hand = (pixels + 0.1 * wanted.grad.sign()).clamp(0, 1)
    plain = PixelSpace((0.0,), (1.0,))
    inputs = SPACE.to_inputs(pixels)
    with frozen(model):
        moved, logits = fgsm_step(model, inputs, examples.labels, SPACE, 0.1)
    # The bounds of pixels are float32.
    torch.testing.assert_close(SPACE.to_pixels(moved), by_hand, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits, network(pixels).detach())
    ours = fgsm_nearest(model, inputs, examples.labels, SPACE, batch_size=17)
    theirs = fgsm_nearest(network, pixels, examples.labels, plain)
    assert torch.equal(ours, theirs)
    reached = network(by_hand).argmax(1)
    left = reached != examples.labels
    assert 0 < int(left.sum()) < len(left), "the step must leave the class for some, not for all"
    assert torch.equal(ours[left], reached[left])
    seconds = second_best(network, pixels, examples.labels)
    assert torch.equal(ours[~left], seconds[~left])


def test_what_cannot_be_labelled_is_refused():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3, got 0\.\.4"):
        second_best(Table(), logits, torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match="labels must be one for each of the 3 inputs"):
        least_probable(Table(), logits, labels[:2])
    with pytest.raises(ValueError, match="labels must be int64"):
        second_best(Table(), logits, labels.int())
    with pytest.raises(ValueError, match=r"logits .* of at least 2 classes"):
        second_best(Table(), logits[:, :1], labels)
    with pytest.raises(ValueError, match="inputs must hold at least one example"):
        second_best(Table(), logits[:0], labels[:0])
    with pytest.raises(FloatingPointError, match="not finite"):
        second_best(Table(), logits.fill_(torch.nan), labels)
    with pytest.raises(ValueError, match="classes must be at least 2"):
        random_other(labels * 0, 1, torch.Generator())
    with pytest.raises(ValueError, match="epsilon must lie in"):
        fgsm_nearest(trained(), images(1).inputs, images(1).labels, SPACE, epsilon=0.0)
    with pytest.raises(ValueError, match="labels must be as many as the inputs"):
        fgsm_nearest(trained(), images(1).inputs, labels, SPACE)
    with pytest.raises(ValueError, match="rule must be one of second_best"):
        wrong_labels("nearest", Table(), logits, labels, None, torch.Generator())
    with pytest.raises(ValueError, match="space must be given"):
        wrong_labels("fgsm_nearest", Table(), logits, labels, None, torch.Generator())
