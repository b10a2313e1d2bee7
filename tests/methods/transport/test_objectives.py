"""What an objective's loss is worth, and the gradient it leaves in a slicer's parameters."""

import math

import ot
import pytest
import torch
from torch import nn

from sextant.methods.transport.sliced.losses import hard_cost, two_pass_loss
from sextant.methods.transport.sliced.objectives import (
    ProjectedCost,
    SoftPermutation,
    Stein,
    stein_loss,
)
from sextant.methods.transport.sliced.slicers import (
    LinearSlicer,
    SetTransformerSlicer,
    SineMLP,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(pairs: int = 3, n: int = 20, d: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(5)
    return (
        torch.randn(pairs, n, d, generator=draws),
        2 + 0.5 * torch.randn(pairs, n, d, generator=draws),
    )


def fresh(kind: str, context_width: int = 0) -> nn.Module:
    torch.manual_seed(0)
    if kind == "linear":
        return LinearSlicer(2)
    if kind == "mlp":
        return SineMLP(2, hidden=(8, 8), context_width=context_width)
    return SetTransformerSlicer(2, width=8, heads=2, inducing=4, context_width=context_width)


def gradients(slicer: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(slicer.parameters())))


class Fold(nn.Module):
    """Scores x_0 + parameter * x_1."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, points: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return points[..., 0] + self.weight * points[..., 1]


ALL = [
    SoftPermutation("sqeuclidean"),
    SoftPermutation(both_soft=True),
    SoftPermutation(sort="softsort"),
    Stein(),
    ProjectedCost(),
]


@pytest.mark.parametrize("kind", ["linear", "mlp", "set transformer"])
@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_every_slicer_gets_a_gradient_from_every_objective(objective, kind):
    slicer = fresh(kind)
    loss = objective(slicer, *clouds(), None, generator())
    assert loss.shape == ()
    loss.backward()
    for parameter in slicer.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert any(parameter.grad.abs().max() > 0 for parameter in slicer.parameters())


@pytest.mark.parametrize("kind", ["mlp", "set transformer"])
@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_each_pair_is_scored_in_its_own_context(objective, kind):
    slicer, (source, target) = fresh(kind, 2), clouds()
    context = torch.randn(3, 2, generator=generator(1))
    together = objective(slicer, source, target, context, generator())
    alone = [
        objective(slicer, source[i : i + 1], target[i : i + 1], context[i : i + 1], generator())
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    each = [gradients(slicer, loss) for loss in alone]
    for found, *parts in zip(gradients(slicer, together), *each, strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-3, atol=1e-5)


def test_the_settings_of_soft_permutation_reach_the_loss():
    slicer, points = fresh("mlp"), clouds()
    for setting in (
        ("euclidean", 0.1, True, False, "lapsum"),
        ("sqeuclidean", 5.0, False, False, "lapsum"),
        ("euclidean", 0.3, True, True, "softsort"),
    ):
        expected = two_pass_loss(slicer(points[0]), slicer(points[1]), *points, *setting)
        assert torch.equal(SoftPermutation(*setting)(slicer, *points), expected)
    assert SoftPermutation("sqeuclidean").cost == Stein("sqeuclidean").cost == "sqeuclidean"


@pytest.mark.parametrize("cost", ["euclidean", "sqeuclidean"])
def test_training_turns_a_line_towards_cheaper_pairs(cost):
    # The clouds differ by a stretch of their first axis, so sorting along it is best.
    source = torch.randn(4, 30, 2, generator=generator()) * torch.tensor([1.0, 0.2])
    target = source[:, torch.randperm(30, generator=generator())] * torch.tensor([3.0, 1.0])
    for objective in (SoftPermutation(cost), Stein(cost, epsilon=0.2)):
        slicer = LinearSlicer(2)
        with torch.no_grad():
            slicer.layer.weight.copy_(torch.tensor([[0.2, 1.0]]))
        optimizer = torch.optim.Adam(slicer.parameters(), 0.05)

        def reached(slicer=slicer):
            return hard_cost(slicer(source), slicer(target), source, target, cost).mean().item()

        before = reached()
        for step in range(60):
            optimizer.zero_grad()
            objective(slicer, source, target, None, generator(step)).backward()
            optimizer.step()
        first, second = slicer.layer.weight.detach()[0].abs()
        assert reached() < 0.9 * before
        assert first > second


def test_stein_has_the_value_of_the_hard_cost_and_repeats_itself():
    slicer, points = fresh("mlp"), clouds()
    first = Stein("sqeuclidean")(slicer, *points, None, generator(3))
    scores = slicer(points[0]), slicer(points[1])
    assert first.item() == pytest.approx(hard_cost(*scores, *points, "sqeuclidean").mean().item())
    again = Stein("sqeuclidean")(slicer, *points, None, generator(3))
    other = Stein("sqeuclidean")(slicer, *points, None, generator(4))
    found, repeated, different = (gradients(slicer, loss) for loss in (first, again, other))
    assert all(torch.equal(one, two) for one, two in zip(found, repeated, strict=True))
    assert not torch.equal(found[0], different[0])


def test_stein_estimates_the_slope_of_the_smoothed_hard_cost():
    # Two pairs of points: the target's order flips where the parameter passes -1/2, and with it the
    # cost jumps between two values; smoothed by a normal law it is their mixture, in closed form.
    source = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    target = torch.tensor([[[0.5, 1.0], [-0.5, -1.0]]], dtype=torch.float64)
    slicer = Fold(-0.45)
    straight, crossed = (
        hard_cost(Fold(value)(source), Fold(value)(target), source, target, "sqeuclidean")
        for value in (1.0, -2.0)
    )
    epsilon, distance = 0.2, 0.05
    density = math.exp(-0.5 * (distance / epsilon) ** 2) / math.sqrt(2 * math.pi) / epsilon
    expected = (straight - crossed).item() * density
    objective = Stein("sqeuclidean", epsilon, samples=100_000)
    slope = gradients(slicer, objective(slicer, source, target, None, generator()))[0].item()
    assert abs(expected) > 1
    assert slope == pytest.approx(expected, rel=0.03)


def test_stein_is_unbiased_for_a_quadratic():
    # E (theta + epsilon Z)^T A (theta + epsilon Z) has the gradient 2 A theta for every epsilon.
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([0.7, -1.1], dtype=torch.float64)
    parameters = {"first": start[:1].clone().requires_grad_(), "rest": start[1:].clone()}
    parameters["rest"].requires_grad_()

    def quadratic(stacked: dict[str, torch.Tensor]) -> torch.Tensor:
        theta = torch.cat([stacked["first"], stacked["rest"]], -1)
        return torch.einsum("si,ij,sj->s", theta, matrix, theta)

    estimates = []
    for seed in range(400):
        loss = stein_loss(quadratic, parameters, 0.3, 10, generator(seed))
        assert loss.item() == pytest.approx((start @ matrix @ start).item())
        estimates.append(torch.cat(torch.autograd.grad(loss, list(parameters.values()))))
    estimates = torch.stack(estimates)
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - 2 * matrix @ start).abs() < 4 * error).all()
    assert (error < 0.3).all()


def test_stein_leaves_frozen_parameters_alone():
    slicer = fresh("mlp")
    frozen = next(iter(slicer.parameters())).requires_grad_(False)
    before = [parameter.detach().clone() for parameter in slicer.parameters()]
    Stein()(slicer, *clouds(), None, generator()).backward()
    assert frozen.grad is None
    for parameter, held in zip(slicer.parameters(), before, strict=True):
        assert torch.equal(parameter, held)
    for parameter in slicer.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="slicer must have parameters"):
        Stein()(slicer, *clouds(), None, generator())


def test_the_projected_cost_is_transport_on_the_line_and_shrinks_with_the_scores():
    slicer, (source, target) = LinearSlicer(2), clouds()
    loss = ProjectedCost()(slicer, source, target)
    with torch.no_grad():
        lines = zip(slicer(source).numpy(), slicer(target).numpy(), strict=True)
        expected = sum(ot.wasserstein_1d(fx, fy, p=2) for fx, fy in lines) / 3
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    # A step against the gradient makes the scores smaller: that is all it asks for.
    assert (slicer.layer.weight.grad * slicer.layer.weight.detach()).sum() > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SoftPermutation("cosine"), "cost must be"),
        (lambda: SoftPermutation(temperature=0.0), "temperature must be positive"),
        (lambda: SoftPermutation(sort="quick"), "sort must be"),
        (lambda: Stein("cosine"), "cost must be"),
        (lambda: Stein(epsilon=0.0), "epsilon must be positive"),
        (lambda: Stein(samples=0), "samples must be at least 1"),
        (lambda: ProjectedCost("cosine"), "cost must be"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
