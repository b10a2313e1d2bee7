"""Projected training leaves a network's outputs on protected images as they were, exactly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sextant.methods.unlearning.covariance import feature_covariances
from sextant.methods.unlearning.projected import ProjectedStep
from sextant.methods.unlearning.projectors import Projector, projector

STEPS = 200


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained():
    """Three convolutions with batch norm and a head, in float64; protected and forget images."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = []
    for inside, outside, stride in ((3, 10, 2), (10, 12, 2), (12, 12, 1)):
        layers += [
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))
    model.double()
    # A first layer whose 27 inputs are not spanned needs images that are flat, but for a few.
    protected = torch.rand(3, 3, 1, 1, generator=draw, dtype=torch.float64).expand(3, 3, 8, 8)
    forget = torch.rand(24, 3, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.randint(4, (24,), generator=draw)
    for _ in range(5):
        model(torch.cat((forget, protected)))  # running statistics
    return model.eval(), protected.contiguous(), forget, labels


def walk(trained, place, optimizer, extra=None, train_norms=False):
    """Trains on the forget images; change of the protected outputs, first and last loss."""
    model, protected, forget, labels = trained
    model = copy.deepcopy(model)
    with torch.no_grad():
        before = model(protected)
    covariances = feature_covariances(model, [protected])
    projectors = {n: projector(c.matrix, "nscl", factor=10.0) for n, c in covariances.items()}
    assert all(one.kept > 0 for one in projectors.values())
    step = ProjectedStep(model, projectors, optimizer(model.parameters()), place)
    if extra is not None:  # a parameter that must not move, set free
        model.get_parameter(extra).requires_grad_(True)
    model.train(train_norms)
    losses = []
    for _ in range(STEPS):
        step.optimizer.zero_grad()
        loss = functional.cross_entropy(model(forget), labels)
        loss.backward()
        step.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        return (model(protected) - before).abs().max().item(), losses[0], losses[-1]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@pytest.mark.parametrize(
    ("place", "optimizer"), [("update", adam), ("update", momentum), ("gradient", momentum)]
)
def test_outputs_on_protected_images_stay_while_the_rest_is_learnt(trained, place, optimizer):
    change, first, last = walk(trained, place, optimizer)
    assert change < 1e-12
    assert last < first / 10


def test_weight_decay_is_projected_with_the_update(trained):
    def decaying(parameters):
        return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)

    assert walk(trained, "update", decaying)[0] < 1e-12


@pytest.mark.parametrize(
    ("place", "optimizer", "wrong"),
    [
        ("gradient", adam, {}),
        ("update", adam, {"extra": "1.weight"}),
        ("update", adam, {"extra": "4.bias"}),
        ("update", adam, {"extra": "0.bias"}),
        ("update", adam, {"train_norms": True}),
    ],
    ids=["adam on projected gradients", "norm weight", "norm bias", "conv bias", "train mode"],
)
def test_every_wrong_variant_breaks_it(trained, place, optimizer, wrong):
    change, _, _ = walk(trained, place, optimizer, **wrong)
    assert change > 1e-3


def test_the_wrong_side_of_the_weight_breaks_it():
    draw = torch.Generator().manual_seed(0)
    protected = torch.rand(2, 6, generator=draw, dtype=torch.float64)
    update = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    made = projector(protected.T @ protected / 2, "nscl")
    assert (protected @ made.apply(update).T).abs().max() < 1e-14
    assert (protected @ made.apply(update.T)).abs().max() > 1e-2


@pytest.mark.parametrize("place", ["update", "gradient"])
def test_a_projector_of_everything_trains_as_usual_and_of_nothing_not_at_all(place):
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    inputs, wanted = torch.randn(8, 5).double(), torch.randn(8, 2).double()
    ends = {}
    for name in ("plain", "all", "none"):
        model = copy.deepcopy(start)
        optimizer = adam(model.parameters())
        taking = optimizer
        if name != "plain":
            form = "remove" if name == "all" else "keep"
            free = {"0": 6, "2": 5}
            projectors = {k: Projector(torch.zeros(d, 0), form) for k, d in free.items()}
            taking = ProjectedStep(model, projectors, optimizer, place)
        for _ in range(20):
            optimizer.zero_grad()
            functional.mse_loss(model(inputs), wanted).backward()
            taking.step()
        ends[name] = list(model.parameters())
    for plain, whole, none, first in zip(*ends.values(), start.parameters(), strict=True):
        torch.testing.assert_close(whole, plain, rtol=0, atol=1e-14)
        assert torch.equal(none, first)
        assert not torch.equal(plain, first)


def test_one_step_is_the_plain_update_times_the_dense_projectors():
    torch.manual_seed(0)
    start = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    inputs = torch.randn(6, 2, 4, 4).double()
    covariances = feature_covariances(start, [inputs])
    projectors = {n: projector(c.matrix, "soft") for n, c in covariances.items()}
    plain, projected = copy.deepcopy(start), copy.deepcopy(start)
    optimizers = [adam(model.parameters()) for model in (plain, projected)]
    with ProjectedStep(projected, projectors, optimizers[1]) as step:
        for model, taking in ((plain, optimizers[0]), (projected, step)):
            model(inputs).square().sum().backward()
            taking.step()
    kernel = start[0].weight.flatten(1)
    move = (plain[0].weight.flatten(1) - kernel) @ projectors["0"].dense()
    torch.testing.assert_close(projected[0].weight.flatten(1), kernel + move)
    head, moved, there = (
        torch.cat((model[2].weight, model[2].bias[:, None]), 1)
        for model in (start, plain, projected)
    )
    torch.testing.assert_close(there, head + (moved - head) @ projectors["2"].dense())
    assert torch.equal(projected[0].bias, start[0].bias)
    assert not torch.equal(plain[0].bias, start[0].bias)


def test_what_may_move_is_named_and_the_rest_frozen_until_the_end():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    model[1].bias.requires_grad_(False)
    model(torch.randn(3, 1, 2, 2)).sum().backward()
    required = {name: one.requires_grad for name, one in model.named_parameters()}
    free = {"0": Projector(torch.zeros(4, 0), "remove"), "3": Projector(torch.zeros(2, 0), "keep")}
    with ProjectedStep(model, free, adam(model.parameters())) as step:
        assert step.moving == ["0.weight", "3.weight"]  # width 2: the head's bias stays too
        assert step.frozen == ["0.bias", "1.weight", "1.bias", "3.bias"]
        for name, one in model.named_parameters():
            assert one.requires_grad == (name in step.moving)
        assert model[1].weight.grad is None
    assert {name: one.requires_grad for name, one in model.named_parameters()} == required
    with pytest.raises(RuntimeError, match="restore"):
        step.step()


def test_wrong_input_is_refused_before_anything_is_frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    free = Projector(torch.zeros(4, 0), "remove")
    every = adam(model.parameters())
    for projectors, optimizer, place, said in (
        ({"0": free}, every, "weights", "place"),
        ({"2": free}, every, "update", "modules"),
        ({"0": Projector(torch.zeros(5, 0), "keep")}, every, "update", "dimension 3 or 4"),
        ({}, every, "update", "at least one"),
        ({"0": free}, adam([model[0].weight]), "update", "0.bias"),
    ):
        with pytest.raises(ValueError, match=said):
            ProjectedStep(model, projectors, optimizer, place)
    with pytest.raises(TypeError, match="BatchNorm1d"):
        ProjectedStep(model, {"1": free}, every)
    assert all(one.requires_grad for one in model.parameters())
