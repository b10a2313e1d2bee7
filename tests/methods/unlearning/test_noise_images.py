"""Unlearning with images of noise: every image is used, and bears the label of its class."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.noise_images import ErrorMinimisingNoise, NoiseImages, Unsir
from tests.unlearning_problem import images, part, problem_of, trained, weights

NOISE = NoiseImages(images=6, steps=5)


@pytest.mark.parametrize(("aim", "sign"), [("maximise", -1.0), ("minimise", 1.0)])
def test_noise_is_adam_on_the_pixels(aim, sign):
    model = trained().requires_grad_(False)
    found = NOISE.learn(model, 2, (1, 8, 8), aim, torch.Generator().manual_seed(1))
    start = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    noise, labels = start.clone().requires_grad_(), torch.full((6,), 2)
    optimizer = torch.optim.Adam([noise], 0.1)

    def loss(images):
        return sign * cross_entropy(model(images), labels) + 0.1 * images.pow(2).sum() / 6

    for _ in range(5):
        optimizer.zero_grad()
        loss(noise).backward()
        optimizer.step()
    torch.testing.assert_close(found.inputs, noise.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, labels)
    assert loss(found.inputs) < loss(start)


@pytest.mark.parametrize("kind", ["unsir", "zero shot"])
def test_every_noise_image_is_used_with_the_label_of_its_class(kind):
    data = images(5)
    kept = part(data, (data.labels == 1) | (data.labels == 3))
    given = {}

    def spied(base):
        class Spied(base):
            def run(self, model, batches, loss, *rest, **more):
                given.update({epoch: list(batches(epoch)) for epoch in (1, 2)})
                return super().run(model, batches, loss, *rest, **more)

        return Spied

    settings = {"noise": NOISE, "repeats": 3, "batch_size": 7}
    if kind == "unsir":
        method = spied(Unsir)(**settings)
    else:
        method = spied(ErrorMinimisingNoise)(shape=(1, 8, 8), **settings)
    problem = problem_of(method, retain=kept, forgotten_classes=(0, 2))
    found = method(trained(), problem, Streams(0))
    labels = [torch.cat([y for _, y in given[epoch]]).bincount(minlength=4) for epoch in (1, 2)]
    each = 5 if kind == "unsir" else 18
    assert labels[0].tolist() == [18, each, 18, each]
    assert labels[1].tolist() == [0, each, 0, each]
    # Six different images of each forgotten class, and no image of both.
    inputs = torch.cat([x for x, _ in given[1]])
    bears = torch.cat([y for _, y in given[1]])
    sets = [inputs[bears == label].flatten(1).unique(dim=0) for label in (0, 2)]
    assert [len(one) for one in sets] == [6, 6]
    assert len(torch.cat(sets).unique(dim=0)) == 12
    assert found.report["forgotten_noise_images"] == 12
    # One epoch of impairing and one of repairing, written out.
    model = trained().train()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch, rate in ((1, 0.02), (2, 0.01)):
        optimizer.param_groups[0]["lr"] = rate
        for inputs, bears in given[epoch]:
            optimizer.zero_grad()
            cross_entropy(model(inputs), bears).backward()
            optimizer.step()
    for name, value in weights(model).items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_noise_changes_no_running_statistics():
    model = trained()
    before = weights(model)
    NOISE.learn(model.requires_grad_(False), 0, (1, 8, 8), "maximise", torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_refusals_of_noise():
    method = Unsir(noise=NOISE)
    with pytest.raises(ValueError, match="forgotten_classes must name"):
        method(trained(), problem_of(method, forgotten_classes=()), Streams(0))
    with pytest.raises(ValueError, match="stop_at must be None"):
        Unsir(stop_at=0.1)
    with pytest.raises(ValueError, match="shape"):
        ErrorMinimisingNoise(shape=(1, 0, 8))
    with pytest.raises(ValueError, match="repeats"):
        Unsir(repeats=0)
    with pytest.raises(ValueError, match="images"):
        NoiseImages(images=0)
