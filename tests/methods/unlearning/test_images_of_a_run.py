"""Images that one run draws and others protect, and the model that is left as it is."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.unlearning.covariance import feature_covariances
from sextant.methods.unlearning.covarnav import CovarNav
from sextant.methods.unlearning.inversion import Inversion
from sextant.methods.unlearning.inverting import InversionStudent
from sextant.methods.unlearning.proxy_quality import energy_capture
from sextant.methods.unlearning.student import UnlearningStudent
from sextant.methods.unlearning.untouched import Untouched
from tests.methods.unlearning.test_unlearning_student import Problem, network

INVERSION = Inversion(images=12, batch_size=12, iterations=4, on_poor="warn")


def parent(student):
    return SimpleNamespace(load=lambda: student)


def original():
    return parent(SimpleNamespace(network=network()))


def drawn(seed=0):
    student = InversionStudent(INVERSION)
    student.prepare(Streams(seed), {"original": original()}, Problem())
    return student


def unlearned(method, seed=0, **parents):
    student = UnlearningStudent(method, subset_each=None)
    student.prepare(Streams(seed), {"original": original()} | parents, Problem())
    return student


def test_only_kept_classes_are_drawn_and_a_saved_run_gives_them_back():
    student = drawn()
    assert set(student.images.labels.tolist()) == {0, 2}
    again = InversionStudent(INVERSION)
    again.load_state_dict(student.state_dict())
    torch.testing.assert_close(again.images.inputs, student.images.inputs, rtol=0, atol=0)
    assert again.images.labels.tolist() == student.images.labels.tolist()
    assert again.seconds == student.seconds > 0
    assert again.inverted.report == student.inverted.report


def test_images_of_a_run_are_those_the_method_would_draw_itself():
    method = CovarNav(inversion=INVERSION, epochs=2, stop_at=0.0)
    images = drawn()
    ours, shared = unlearned(method), unlearned(method, inverted=parent(images))
    torch.testing.assert_close(
        shared.unlearned.proxy.inputs, ours.unlearned.proxy.inputs, rtol=0, atol=0
    )
    inputs = torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(shared.logits(inputs), ours.logits(inputs), rtol=0, atol=0)
    assert shared.unlearned.seconds["inversion"] == images.seconds
    assert ours.unlearned.seconds["inversion"] > 0


def test_methods_that_do_not_invert_leave_the_images_alone():
    method = CovarNav(inversion=INVERSION, proxy="noise", epochs=1)
    student = unlearned(method, inverted=parent(drawn()))
    expected = unlearned(method)
    torch.testing.assert_close(
        student.unlearned.proxy.inputs, expected.unlearned.proxy.inputs, rtol=0, atol=0
    )
    assert student.unlearned.seconds["inversion"] < drawn().seconds


def test_the_quality_of_the_images_is_measured_on_as_many_real_ones():
    student = unlearned(CovarNav(inversion=INVERSION, epochs=1), inverted=parent(drawn()))
    proxy = student.unlearned.proxy
    inputs, labels = torch.randn(12, 2, 4, 4), torch.zeros(12, dtype=torch.int64)
    found = student.proxy_quality(inputs, labels)
    ours, theirs = (feature_covariances(network(), [batch]) for batch in (proxy.inputs, inputs))
    layers = energy_capture(ours, theirs)
    assert found["energy_capture"] == pytest.approx(sum(layers.values()) / len(layers))
    assert found["batch_norm_ratio"] > 0
    free = unlearned(replace(CovarNav(inversion=INVERSION), proxy="none"))
    assert free.proxy_quality(inputs, labels) == {}


def test_a_model_left_as_it_is_asks_for_nothing():
    data = Problem()
    student = UnlearningStudent(Untouched())
    student.prepare(Streams(0), {"original": original()}, data)
    inputs = torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(student.logits(inputs), network()(inputs).detach())
    assert data.asked == []
    assert student.unlearned.seconds == {}


def test_ascent_climbs_the_loss_of_the_true_labels():
    inputs, labels = Problem().examples("forgotten")
    method = CovarNav(
        inversion=INVERSION, proxy="none", objective="ascent", optimizer="sgd", momentum=0.0,
        rate=0.1, epochs=1, batch_size=6, stop_at=0.0,
    )  # fmt: skip
    model = network()
    with torch.no_grad():
        model[3].bias[1] += 2.0  # else the class is named wrongly from the start, and all is done
    knows = parent(SimpleNamespace(network=copy.deepcopy(model)))
    student = unlearned(method, original=knows)
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    gradient = torch.autograd.grad(loss, model[3].weight)[0]
    expected = model[3].weight + 0.1 * gradient
    torch.testing.assert_close(student.model[3].weight, expected, rtol=1e-5, atol=1e-6)
    assert student.unlearned.curve[0]["loss"] == pytest.approx(-loss.item(), rel=1e-5)
