"""What every baseline keeps to: it sees what it declares, changes a copy, and repeats itself."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.amnesiac import Amnesiac, UpdateRecorder
from sextant.methods.unlearning.boundary import BoundaryExpand, BoundaryShrink
from sextant.methods.unlearning.dampening import SelectiveSynapticDampening
from sextant.methods.unlearning.fisher import FisherForgetting
from sextant.methods.unlearning.gradient_ascent import NegGrad, NegGradPlus
from sextant.methods.unlearning.noise_images import ErrorMinimisingNoise, NoiseImages, Unsir
from sextant.methods.unlearning.null_space_calibration import NullSpaceCalibration
from sextant.methods.unlearning.problem import Examples, NotDeclared, forget_accuracy
from sextant.methods.unlearning.random_labels import AmnesiacLabels, RandomLabel
from sextant.methods.unlearning.retraining import Finetune, Retrain
from sextant.methods.unlearning.saliency import SalUn
from sextant.methods.unlearning.scrub import Scrub
from sextant.methods.unlearning.selective_newton import SelectiveNewton
from tests.unlearning_problem import images, problem_of, same, split, trained, weights

NOISE = NoiseImages(images=8, steps=5)
METHODS = {
    "retrain": Retrain(epochs=1),
    "finetune": Finetune(epochs=1),
    "neggrad": NegGrad(epochs=1, rate=1e-3, batch_size=16),
    "neggrad+": NegGradPlus(epochs=1),
    "random label": RandomLabel(epochs=1, rate=1e-3),
    "random label once": RandomLabel(epochs=1, rate=1e-3, redraw=False),
    "boundary shrink": BoundaryShrink(epochs=1, rate=1e-3),
    "boundary expand": BoundaryExpand(epochs=1, rate=1e-3),
    "amnesiac labels": AmnesiacLabels(epochs=1),
    "amnesiac": Amnesiac(),
    "salun": SalUn(epochs=1),
    "salun forget": SalUn(epochs=1, retained=False),
    "scrub": Scrub(epochs=1),
    "ssd": SelectiveSynapticDampening(alpha=1.0, dampening=0.5),
    "fisher": FisherForgetting(alpha=1e-3, chunk=60),
    "unsir": Unsir(noise=NOISE, repeats=1),
    "zero shot": ErrorMinimisingNoise(shape=(1, 8, 8), noise=NOISE, repeats=1),
    "unsc": NullSpaceCalibration(epochs=1),
    "l-codec": SelectiveNewton(perturbations=20, curvature=20),
}
BLIND = [name for name, method in METHODS.items() if method.needs.retain == "none"]


@pytest.fixture(scope="module")
def log():
    """Steps recorded after training: only their number and shapes matter here."""
    model, (forget, _) = trained(), split(images())
    recorder = UpdateRecorder(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for number in range(3):
        cross_entropy(model(forget.inputs[number::3]), forget.labels[number::3]).backward()
        with recorder.step([number]):
            optimizer.step()
    return recorder.log()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_changes_a_copy_and_repeats_itself(name, log):
    method, model = METHODS[name], trained()
    model.train()
    model[1].eval()
    model[0].requires_grad_(False)
    before, modes = weights(model), [module.training for module in model.modules()]
    global_state = torch.random.get_rng_state()
    found = [
        method(model, problem_of(method, training_log=log), Streams(seed)) for seed in (3, 3, 4)
    ]
    assert same(before, weights(model))
    assert modes == [module.training for module in model.modules()]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 8
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in found[0].model.modules())
    assert torch.equal(global_state, torch.random.get_rng_state())
    first, again, other = (weights(one.model) for one in found)
    assert same(first, again)
    assert not same(first, before)
    # Taking recorded steps back is no matter of chance.
    assert same(first, other) == (name == "amnesiac")
    assert not any(module.training for module in found[0].model.modules())
    assert found[0].model(images(1).inputs).shape == (4, 4)
    assert all(value >= 0 for value in found[0].seconds.values())
    assert "updates" in found[0].seconds
    assert all(isinstance(value, float) for entry in found[0].curve for value in entry.values())


@pytest.mark.parametrize("name", BLIND)
def test_a_method_without_retained_data_never_loads_it(name, log):
    def refuse():
        raise AssertionError("retained data were loaded")

    method = METHODS[name]
    problem = problem_of(method, retain=refuse, training_log=log)
    method(trained(), problem, Streams(0))
    with pytest.raises(NotDeclared):
        _ = problem.retain


def test_which_methods_are_free_of_retained_data():
    assert set(BLIND) == {
        "neggrad",
        "random label",
        "random label once",
        "boundary shrink",
        "boundary expand",
        "amnesiac",
        "salun forget",
        "zero shot",
    }
    seen = {name for name, method in METHODS.items() if method.needs.forget}
    assert not seen & {"retrain", "finetune", "amnesiac", "fisher", "unsir", "zero shot"}


@pytest.mark.parametrize(
    "name", ["retrain", "finetune", "fisher", "unsir", "zero shot", "amnesiac"]
)
def test_a_method_that_does_not_ask_for_the_forget_set_never_sees_it(name, log):
    def refuse():
        raise AssertionError("the forget set was loaded")

    method = METHODS[name]
    found = method(trained(), problem_of(method, forget=refuse, training_log=log), Streams(0))
    assert all(value.isfinite().all() for value in weights(found.model).values())


def test_retraining_takes_nothing_from_the_model_or_the_forget_set():
    """Poisoned weights and a poisoned forget set would spread at the first touch."""
    method, poisoned = Retrain(epochs=6, rate=0.05, batch_size=16), trained()
    with torch.no_grad():
        for parameter in poisoned.parameters():
            parameter.fill_(torch.nan)
    forget, retain = split(images())
    bad = Examples(forget.inputs * torch.nan, forget.labels)
    found = method(poisoned, problem_of(method, forget=bad), Streams(0))
    assert forget_accuracy(found.model, retain) > 0.9
    assert forget_accuracy(found.model, forget) == 0.0
    unseen, _ = split(images(100, seed=9))
    assert forget_accuracy(found.model, unseen) <= 0.01
    clean = method(trained(), problem_of(method), Streams(0))
    assert same(weights(found.model), weights(clean.model))


FORGETTING = {
    "neggrad": NegGrad(rate=2e-2, stop_at=0.05),
    "neggrad+": NegGradPlus(alpha=0.8, epochs=15, rate=0.02, stop_at=0.05),
    "random label": RandomLabel(rate=5e-3, stop_at=0.05),
    "boundary shrink": BoundaryShrink(rate=5e-3, stop_at=0.05, epochs=20),
    "boundary expand": BoundaryExpand(rate=2e-2, batch_norm="eval", stop_at=0.05),
    "amnesiac labels": AmnesiacLabels(rate=5e-3, stop_at=0.05, epochs=20),
    "salun": SalUn(rate=0.05, stop_at=0.05, epochs=20, batch_size=32),
    "scrub": Scrub(rate=2e-2, weight_decay=0.0, batch_size=32, forget_batch_size=8, stop_at=0.3),
    "unsc": NullSpaceCalibration(stop_at=0.05, energy=0.3, momentum=0.9),
}


@pytest.mark.parametrize("name", FORGETTING)
def test_a_method_forgets_and_stops(name):
    method, model = FORGETTING[name], trained()
    forget, _ = split(images())
    assert forget_accuracy(model, forget) > 0.9
    found = method(model, problem_of(method), Streams(0))
    assert found.report["stopped_by"] == "forget accuracy"
    assert forget_accuracy(found.model, forget) <= method.stop_at
    assert found.curve[-1]["forget_accuracy"] == forget_accuracy(found.model, forget)
    assert all(entry["forget_accuracy"] > method.stop_at for entry in found.curve[:-1])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "amnesiac"])
def test_a_method_on_a_model_left_in_training_mode_gives_the_same(name):
    method = METHODS[name]
    model = trained()
    first = method(copy.deepcopy(model), problem_of(method), Streams(0))
    second = method(model.train(), problem_of(method), Streams(0))
    assert same(weights(first.model), weights(second.model))
