"""What a method may see: nothing but what it declares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sextant.methods.unlearning.problem import (
    Examples,
    Needs,
    NotDeclared,
    PixelSpace,
    Problem,
    evaluating,
    forget_accuracy,
)
from tests.unlearning_problem import images, network, trained


def refuse():
    raise AssertionError("must not be loaded")


def of(needs, **given):
    return Problem.of(needs, classes=4, **given)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("forget", lambda problem: problem.forget),
        ("retain", lambda problem: problem.retain),
        ("training_log", lambda problem: problem.training_log),
        ("fresh", lambda problem: problem.fresh(torch.Generator())),
    ],
)
def test_what_is_not_declared_is_refused_and_never_loaded(name, look):
    problem = of(
        Needs(forget=False),
        forget=refuse,
        retain=refuse,
        subset=refuse,
        training_log="log",
        fresh=refuse,
    )
    with pytest.raises(NotDeclared, match=f"{name} is not handed over.*declare {name} = "):
        look(problem)
    assert issubclass(NotDeclared, PermissionError)
    # Not even kept out of sight: what is not declared is not there.
    assert "refuse" not in repr(vars(problem))


def test_subset_and_all_are_told_apart():
    whole, few = images(5), images(2)
    assert len(of(Needs(False, "all"), retain=whole, subset=refuse).retain) == 20
    assert len(of(Needs(False, "subset"), retain=refuse, subset=lambda: few).retain) == 8


def test_what_is_declared_is_loaded_once():
    calls = []

    def load():
        calls.append(1)
        return images(1)

    problem = of(Needs(), forget=load)
    assert not calls
    assert problem.forget is problem.forget
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("needs", "argument"),
    [
        (Needs(), "forget"),
        (Needs(False, "all"), "retain"),
        (Needs(False, "subset"), "subset"),
        (Needs(False, training_log=True), "training_log"),
        (Needs(False, fresh=True), "fresh"),
    ],
)
def test_what_is_declared_must_be_given(needs, argument):
    with pytest.raises(ValueError, match=f"{argument} must be given"):
        of(needs)


def test_refused_settings():
    with pytest.raises(ValueError, match="retain must be one of"):
        Needs(retain="some")
    with pytest.raises(ValueError, match="forgotten_classes"):
        of(Needs(False), forgotten_classes=(4,))
    with pytest.raises(ValueError, match="forgotten_classes"):
        of(Needs(False), forgotten_classes=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="classes"):
        Problem.of(Needs(False), classes=1)
    assert of(Needs(False), forgotten_classes=(2,)).retained_classes == (0, 1, 3)


def test_a_fresh_model_is_a_function_of_the_seed_alone():
    def make():
        return nn.Linear(3, 2)

    problem = of(Needs(False, fresh=True), fresh=make)
    before = torch.random.get_rng_state()
    first, second, other = (
        problem.fresh(torch.Generator().manual_seed(seed)).weight for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_batches_hold_every_example_once(count, size, shuffle):
    examples = Examples(torch.arange(float(count))[:, None], torch.arange(count))
    generator = torch.Generator().manual_seed(count) if shuffle else None
    batches = list(examples.batches(size, generator))
    assert [len(labels) for _, labels in batches[:-1]] == [size] * (len(batches) - 1)
    labels = torch.cat([labels for _, labels in batches])
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert torch.equal(inputs[:, 0].long(), labels)
    assert sorted(labels.tolist()) == list(range(count))
    if not shuffle:
        assert torch.equal(labels, examples.labels)


def test_refused_examples():
    with pytest.raises(TypeError, match="inputs must be floating-point"):
        Examples(torch.arange(3), torch.arange(3))
    with pytest.raises(TypeError, match="labels must be int64"):
        Examples(torch.rand(3, 2), torch.rand(3))
    with pytest.raises(ValueError, match="labels must be one for each row"):
        Examples(torch.rand(3, 2), torch.arange(4))
    with pytest.raises(ValueError, match="size"):
        list(images(1).batches(0))


def test_pixels_and_inputs():
    space = PixelSpace((0.5, 0.2), (0.5, 0.1))
    pixels = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = space.to_inputs(pixels)
    torch.testing.assert_close(inputs[:, 1], (pixels[:, 1] - 0.2) / 0.1)
    torch.testing.assert_close(space.to_pixels(inputs), pixels)
    assert space.lowest.flatten().tolist() == pytest.approx([-1.0, -2.0])
    assert space.highest.flatten().tolist() == pytest.approx([1.0, 8.0])
    far = space.to_inputs(pixels * 6 - 3)
    torch.testing.assert_close(space.to_pixels(space.clamp(far)), (pixels * 6 - 3).clamp(0, 1))
    with pytest.raises(ValueError, match="deviation must be positive"):
        PixelSpace((0.5,), (0.0,))
    with pytest.raises(ValueError, match="one number a channel"):
        PixelSpace((0.5,), (0.1, 0.2))


def test_accuracy_counts_examples_in_evaluation_mode():
    model, data = trained(), images(7, seed=3)
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    statistics = model[1].running_mean.clone(), model[4].running_mean.clone()
    # 28 examples in batches of 5: a mean of batch means would weigh the last three twice.
    found = forget_accuracy(model, data, batch_size=5)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(statistics[1], model[4].running_mean)
    expected = (model.eval()(data.inputs).argmax(1) == data.labels).double().mean().item()
    assert found == expected
    with pytest.raises(ValueError, match="at least one"):
        forget_accuracy(model, Examples(data.inputs[:0], data.labels[:0]))


def test_modes_come_back_after_an_error():
    model = network().train()
    model[1].eval()
    inside = []

    def fail():
        with evaluating(model):
            inside.extend(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside
    assert not any(inside)
    assert model.training
    assert not model[1].training
    assert model[4].training
