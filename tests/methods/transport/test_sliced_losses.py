"""The training loss against couplings spelled out in matrices, assignments and differences."""

import itertools

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from sextant.methods.transport.sliced import losses
from sextant.methods.transport.sliced import soft_permutation as blocks_module
from sextant.methods.transport.sliced.losses import (
    dense_coupling,
    hard_cost,
    soft_sort,
    standardized,
    two_pass_loss,
)
from sextant.methods.transport.sliced.soft_permutation import soft_permutation

COSTS = ["euclidean", "sqeuclidean"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem(pairs: int, n: int, d: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Scores (pairs, n) of both sides, not alike in spread, and points (pairs, n, d) off centre."""
    return [
        normal(pairs, n, seed=seed),
        1 + 3 * normal(pairs, n, seed=seed + 1),
        5 + normal(pairs, n, d, seed=seed + 2),
        7 + 0.5 * normal(pairs, n, d, seed=seed + 3),
    ]


def costs_of(source: torch.Tensor, target: torch.Tensor, cost: str) -> torch.Tensor:
    """Costs (P, N, N) by differences."""
    squares = (source[:, :, None] - target[:, None]).square().sum(-1)
    return squares if cost == "sqeuclidean" else squares.sqrt()


def hard_rows(scores: torch.Tensor) -> torch.Tensor:
    """Permutation matrices (P, N, N) that sort in descending order, by numpy."""
    order = np.argsort(-scores.detach().numpy(), axis=-1, kind="stable")
    return torch.from_numpy(np.eye(scores.shape[-1])[order])


def naive(
    source_scores, target_scores, source, target, cost, temperature, standardize, both_soft, sort
):
    """<pi, C> from matrices, differentiated by autograd."""
    if standardize:
        together = torch.cat([source_scores, target_scores], 1)
        deviation = together.std(1, correction=0, keepdim=True)
        source_scores, target_scores = source_scores / deviation, target_scores / deviation
    n = source_scores.shape[1]

    def soft(scores):
        if sort == "lapsum":
            return soft_permutation(scores, temperature)
        ranked = (hard_rows(scores) @ scores[..., None]).squeeze(-1)
        weight = torch.exp(-(ranked[..., None] - scores[:, None]).abs() / temperature)
        return weight / weight.sum(-1, keepdim=True)

    soft_source, soft_target = soft(source_scores), soft(target_scores)
    if both_soft:
        coupling = soft_source.mT @ soft_target / n
    else:
        met = soft_source.mT @ hard_rows(target_scores) + hard_rows(source_scores).mT @ soft_target
        coupling = met / (2 * n)
    return (coupling * costs_of(source, target, cost)).sum((1, 2)).mean(), coupling


@pytest.mark.parametrize("matrix_free_from", [0, 10**9])
@pytest.mark.parametrize("entries", [100, 10**6])
@pytest.mark.parametrize("cost", COSTS)
def test_value_and_gradient_are_those_of_the_coupling(monkeypatch, matrix_free_from, entries, cost):
    monkeypatch.setattr(losses, "MATRIX_FREE_FROM", matrix_free_from)
    monkeypatch.setattr(blocks_module, "BLOCK_ENTRIES", entries)
    source_scores, target_scores, source, target = problem(3, 17)
    leaves = source_scores.requires_grad_(), target_scores.requires_grad_()
    switches = itertools.product((0.1, 5.0), (True, False), (True, False), ("lapsum", "softsort"))
    for settings_ in switches:
        loss = two_pass_loss(*leaves, source, target, cost, *settings_)
        expected, coupling = naive(*leaves, source, target, cost, *settings_)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad(loss, leaves)
        for gradient, other in zip(found, torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(
            dense_coupling(*leaves, *settings_), coupling, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("d", [1, 3, 16, 17, 40])
def test_both_ways_of_measuring_blocks_of_costs(d):
    inputs = problem(2, 30, d)
    loss = two_pass_loss(*inputs, "euclidean", 0.3)
    expected, _ = naive(*inputs, "euclidean", 0.3, True, False, "lapsum")
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("cost", COSTS)
def test_points_get_their_gradient(cost):
    scores, points = problem(2, 13)[:2], problem(2, 13)[2:]
    leaves = [tensor.requires_grad_() for tensor in points]
    for both_soft in (False, True):
        arguments = (cost, 0.2, True, both_soft, "lapsum")
        found = torch.autograd.grad(two_pass_loss(*scores, *leaves, *arguments), leaves)
        expected = torch.autograd.grad(naive(*scores, *leaves, *arguments)[0], leaves)
        for gradient, other in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 999), st.sampled_from(COSTS), st.booleans())
def test_the_loss_is_no_less_than_the_optimal_cost_and_becomes_the_hard_cost(
    n, seed, cost, both_soft
):
    inputs = problem(1, n, seed=seed)
    costs = costs_of(*inputs[2:], cost)[0].numpy()
    optimal = costs[linear_sum_assignment(costs)].mean()
    for temperature in (0.05, 1.0, 20.0):
        loss = two_pass_loss(*inputs, cost, temperature, both_soft=both_soft).item()
        assert loss >= optimal * (1 - 1e-12)
        coupling = dense_coupling(inputs[0], inputs[1], temperature, both_soft=both_soft)[0]
        even = torch.full((n,), 1 / n, dtype=torch.float64)
        torch.testing.assert_close(coupling.sum(0), even, rtol=0, atol=1e-12)
        torch.testing.assert_close(coupling.sum(1), even, rtol=0, atol=1e-12)
    cold = two_pass_loss(*inputs, cost, 1e-7, both_soft=both_soft).item()
    order = [np.argsort(-scores[0].numpy()) for scores in inputs[:2]]
    hard = costs[order[0], order[1]].mean()
    assert cold == pytest.approx(hard, rel=1e-9)
    assert hard_cost(*inputs, cost).item() == pytest.approx(hard, rel=1e-12)


@pytest.mark.parametrize("cost", COSTS)
def test_the_hard_cost_is_that_of_transport_on_the_line(cost):
    inputs = problem(3, 40)
    metric = "euclidean" if cost == "euclidean" else "sqeuclidean"
    expected = [
        (ot.emd_1d(fx, fy) * cdist(x, y, metric)).sum()
        for fx, fy, x, y in zip(*(tensor.numpy() for tensor in inputs), strict=True)
    ]
    np.testing.assert_allclose(hard_cost(*inputs, cost).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("cost", COSTS)
def test_a_right_order_costs_nothing_and_the_opposite_one_much(cost):
    points = normal(2, 50, 1)
    right = two_pass_loss(points[..., 0], points[..., 0], points, points, cost, 1e-6)
    wrong = two_pass_loss(points[..., 0], -points[..., 0], points, points, cost, 1e-6)
    assert right.item() == pytest.approx(0, abs=1e-12)
    assert wrong.item() > 1


@pytest.mark.parametrize("cost", COSTS)
def test_swapping_the_clouds_changes_nothing(cost):
    fx, fy, x, y = problem(3, 20)
    torch.testing.assert_close(two_pass_loss(fx, fy, x, y, cost), two_pass_loss(fy, fx, y, x, cost))


@pytest.mark.parametrize("cost", COSTS)
def test_there_is_a_gradient_where_the_hard_cost_has_none(cost):
    fx, fy, x, y = problem(1, 20)
    gap = torch.cat([fx.sort().values.diff(), fy.sort().values.diff()]).min().item()
    nudge = 0.4 * gap * torch.sign(normal(1, 20))
    assert torch.equal(hard_cost(fx + nudge, fy, x, y, cost), hard_cost(fx, fy, x, y, cost))
    leaf = fx.clone().requires_grad_()
    two_pass_loss(leaf, fy, x, y, cost).backward()
    assert leaf.grad.abs().max() > 1e-3


@pytest.mark.parametrize("cost", COSTS)
def test_the_hard_side_gets_no_gradient(cost):
    # Without standardizing, source scores act on the soft sort of the source alone.
    fx, fy, x, y = problem(1, 15)
    leaf = fx.clone().requires_grad_()
    two_pass_loss(leaf, fy, x, y, cost, 0.5, standardize=False).backward()
    other = fx.clone().requires_grad_()
    met = soft_permutation(other, 0.5).mT @ hard_rows(fy)
    (0.5 * (met / 15 * costs_of(x, y, cost)).sum()).backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_standardized_scores_have_no_scale():
    fx, fy, x, y = problem(2, 20)
    first, second = standardized(fx, fy)
    deviation = torch.cat([first, second], 1).std(1, correction=0)
    torch.testing.assert_close(deviation, torch.ones(2, dtype=torch.float64))
    loss = two_pass_loss(fx, fy, x, y)
    for scale in (1e-4, 1e3):
        scaled = two_pass_loss(scale * fx, scale * fy, x, y)
        torch.testing.assert_close(scaled, loss, rtol=1e-9, atol=0)
    # Growing all scores alike changes nothing, so the gradient has no part in that direction.
    leaves = fx.requires_grad_(), fy.requires_grad_()
    two_pass_loss(*leaves, x, y).backward()
    along = sum((leaf.grad * leaf.detach()).sum() for leaf in leaves)
    assert abs(along) < 1e-10
    assert leaves[0].grad.norm() > 1e-3


@pytest.mark.parametrize("sort", ["lapsum", "softsort"])
@pytest.mark.parametrize("both_soft", [False, True])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("level", [0.0, 0.37, -1e5])
def test_equal_scores_give_numbers_and_no_explosion(level, cost, both_soft, sort):
    x, y = (points.float() for points in problem(2, 24)[2:])
    leaves = [torch.full((2, 24), level, requires_grad=True) for _ in range(2)]
    loss = two_pass_loss(*leaves, x, y, cost, both_soft=both_soft, sort=sort)
    if sort == "lapsum" and both_soft:
        assert loss.item() == pytest.approx(costs_of(x, y, cost).mean().item(), rel=1e-5)
    assert torch.isfinite(loss)
    loss.backward()
    for leaf in leaves:
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().max() < 10


@pytest.mark.parametrize("cost", COSTS)
def test_float32_is_as_good_as_its_rounding(cost):
    inputs = problem(2, 600, 3)
    results = {}
    for dtype in (torch.float64, torch.float32):
        tensors = [tensor.to(dtype) for tensor in inputs]
        leaf = tensors[0].detach().requires_grad_()
        loss = two_pass_loss(leaf, *tensors[1:], cost)
        assert loss.dtype == dtype
        loss.backward()
        results[dtype] = loss.item(), leaf.grad.double()
    assert results[torch.float32][0] == pytest.approx(results[torch.float64][0], rel=1e-5)
    exact = results[torch.float64][1]
    assert (results[torch.float32][1] - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize(("cost", "n"), [("euclidean", 700), ("sqeuclidean", 20_000)])
def test_large_clouds_have_the_slope_of_differences(cost, n):
    inputs = problem(1, n, 3)
    # Scores so far apart that a step changes no hard order, whose jumps are no part of a gradient.
    inputs[0] = 6 * (normal(1, n, seed=7).argsort() + 0.3 * torch.sigmoid(normal(1, n, seed=8))) / n
    leaf = inputs[0].clone().requires_grad_()
    two_pass_loss(leaf, *inputs[1:], cost, 0.5).backward()
    direction, step = leaf.grad.sign(), 1e-5
    up = two_pass_loss(inputs[0] + step * direction, *inputs[1:], cost, 0.5)
    down = two_pass_loss(inputs[0] - step * direction, *inputs[1:], cost, 0.5)
    slope = (leaf.grad * direction).sum().item()
    assert (up - down).item() / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_soft_sort_rows_sum_to_one_and_columns_do_not():
    scores = normal(2, 12)
    matrix = soft_sort(scores, 0.5)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 12, dtype=torch.float64))
    assert (matrix.sum(-2) - 1).abs().max() > 0.05
    torch.testing.assert_close(soft_sort(scores, 1e-4), hard_rows(scores), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"cost": "cosine"}, ValueError, "cost must be"),
        ({"sort": "quick"}, ValueError, "sort must be 'lapsum' or 'softsort', got 'quick'"),
        ({"temperature": 0}, ValueError, "temperature must be positive"),
        (
            {"source_scores": torch.ones(2, 4)},
            ValueError,
            r"source_scores must have shape \(2, 5\)",
        ),
        ({"target": torch.ones(2, 4, 2)}, ValueError, "equally many"),
        ({"target": torch.ones(5, 2)}, ValueError, "target must have shape"),
        ({"source": torch.ones(2, 5, 2).long()}, TypeError, "source must be a tensor of floating"),
    ],
)
def test_what_is_refused(change, error, words):
    arguments = {
        "source_scores": torch.ones(2, 5),
        "target_scores": torch.ones(2, 5),
        "source": torch.ones(2, 5, 2),
        "target": torch.ones(2, 5, 2),
    }
    with pytest.raises(error, match=words):
        two_pass_loss(**(arguments | change))
