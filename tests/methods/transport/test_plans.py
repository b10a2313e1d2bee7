"""Sparse plans against their dense matrices, and ground costs against scipy and autograd."""

import pytest
import torch
from scipy.spatial.distance import cdist
from torch.autograd import gradcheck

from sextant.methods.transport.ground import ground_cost, paired_cost
from sextant.methods.transport.plans import SparsePlan

COSTS = ("euclidean", "sqeuclidean")


@pytest.fixture
def plan() -> SparsePlan:
    """A plan between 3 and 4 points; the pair (1, 2) occurs twice, target 3 gets nothing."""
    return SparsePlan(
        torch.tensor([0, 1, 1, 2, 1]),
        torch.tensor([1, 2, 0, 0, 2]),
        torch.tensor([0.3, 0.1, 0.2, 0.15, 0.25], dtype=torch.float64),
        (3, 4),
    )


def matrix() -> torch.Tensor:
    dense = torch.zeros(3, 4, dtype=torch.float64)
    dense[0, 1], dense[1, 2], dense[1, 0], dense[2, 0] = 0.3, 0.35, 0.2, 0.15
    return dense


@pytest.mark.parametrize("cost", COSTS)
def test_cost_is_that_of_the_matrix(plan, clouds, cost):
    source, target = clouds(4)
    source = source[:3]
    between = torch.from_numpy(cdist(source.numpy(), target.numpy(), cost))
    expected = (matrix() * between).sum()
    torch.testing.assert_close(plan.cost(source, target, cost), expected, rtol=1e-13, atol=0)
    mixed = plan.cost(source.float(), target.float(), cost)
    assert mixed.dtype == torch.float64
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradcheck(lambda x, y: plan.cost(x, y, cost), (source.requires_grad_(), target))


def test_matrix_transpose_marginals_and_images(plan, clouds):
    torch.testing.assert_close(plan.dense(), matrix(), rtol=0, atol=1e-16)
    back = plan.transpose()
    assert back.shape == (4, 3)
    torch.testing.assert_close(back.dense(), matrix().t(), rtol=0, atol=1e-16)
    rows, columns = plan.marginals()
    torch.testing.assert_close(rows, matrix().sum(1))
    torch.testing.assert_close(columns, matrix().sum(0))
    _, target = clouds(4)
    torch.testing.assert_close(
        plan.barycentric(target), matrix() @ target / matrix().sum(1, keepdim=True)
    )
    assert plan.barycentric(target.float()).dtype == torch.float32
    with pytest.raises(ValueError, match="every source point mass"):
        back.barycentric(target[:3])


def test_coalescing_joins_repeated_pairs_and_nothing_else(plan):
    joined = plan.coalesced()
    assert list(zip(joined.source_index.tolist(), joined.target_index.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (1, 2),
        (2, 0),
    ]
    torch.testing.assert_close(joined.dense(), plan.dense())


def test_interpolation_goes_from_source_to_target(plan, clouds):
    source, target = clouds(4)
    source = source[:3]
    assert torch.equal(plan.interpolate(source, target, 0.0), source[plan.source_index])
    assert torch.equal(plan.interpolate(source, target, 1.0), target[plan.target_index])
    third = plan.interpolate(source, target, 0.25)[3]
    torch.testing.assert_close(third, 0.75 * source[2] + 0.25 * target[0])


def test_bijections_are_told_from_other_plans(plan):
    forward = torch.tensor([2, 0, 1])
    mass = torch.full((3,), 1 / 3)
    bijection = SparsePlan(forward, torch.tensor([0, 1, 2]), mass, (3, 3))
    assert bijection.is_bijection
    assert bijection.target_of_source().tolist() == [1, 2, 0]
    twice = SparsePlan(forward, torch.tensor([0, 1, 1]), mass, (3, 3))
    for other in (plan, twice, twice.transpose(), SparsePlan(forward, forward, mass, (3, 4))):
        assert not other.is_bijection
        with pytest.raises(ValueError, match="bijection"):
            other.target_of_source()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source_index": torch.tensor([0.0, 1.0])}, TypeError, "source_index"),
        ({"target_index": torch.tensor([0, 1, 1])}, ValueError, "target_index"),
        ({"target_index": torch.tensor([0, 3])}, ValueError, r"target_index must be in 0\.\.2"),
        ({"source_index": torch.tensor([-1, 0])}, ValueError, "source_index must be in"),
        ({"mass": torch.tensor([1.5, -0.5])}, ValueError, "non-negative"),
        ({"mass": torch.tensor([torch.nan, 0.5])}, ValueError, "non-negative"),
        ({"mass": torch.tensor([0.5, 0.4])}, ValueError, "sum to 1"),
        ({"mass": torch.tensor([1, 0])}, TypeError, "mass"),
        ({"mass": torch.tensor([[0.5, 0.5]])}, ValueError, "vector"),
    ],
)
def test_impossible_plans_are_refused(changes, error, words):
    good = {
        "source_index": torch.tensor([0, 1]),
        "target_index": torch.tensor([2, 0]),
        "mass": torch.tensor([0.5, 0.5]),
        "shape": (2, 3),
    }
    SparsePlan(**good)
    with pytest.raises(error, match=words):
        SparsePlan(**{**good, **changes})


def test_clouds_that_do_not_fit_the_plan_are_refused(plan):
    with pytest.raises(ValueError, match=r"source must have shape \(3, d\)"):
        plan.cost(torch.zeros(4, 2), torch.zeros(4, 2), "euclidean")
    with pytest.raises(ValueError, match=r"target must have shape \(4, d\)"):
        plan.interpolate(torch.zeros(3, 2), torch.zeros(3, 2), 0.5)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("d", [1, 3, 16, 17, 64])
def test_ground_costs_equal_scipy_and_follow_autograd(clouds, cost, d):
    source, target = clouds(30, d)
    target = target[:20] + 100.0
    expected = torch.from_numpy(cdist(source.numpy(), target.numpy(), cost))
    torch.testing.assert_close(ground_cost(source, target, cost), expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(
        paired_cost(source[:20], target, cost), expected[:20].diagonal(), rtol=1e-13, atol=0
    )
    few = (source[:3].clone().requires_grad_(), (target[:4] - 98.0).requires_grad_())
    assert gradcheck(lambda x, y: ground_cost(x, y, cost), few)
    batched = ground_cost(torch.stack([source, 2 * source]), target, cost)
    torch.testing.assert_close(batched[0], expected, rtol=1e-11, atol=0)
    assert batched.shape == (2, 30, 20)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("d", [2, 40])
def test_equal_points_cost_nothing_and_have_a_finite_gradient(clouds, cost, d):
    source, _ = clouds(5, d)
    source = source.requires_grad_()
    ground_cost(source, source.detach(), cost).sum().backward()
    assert torch.isfinite(source.grad).all()
    source.grad = None
    own = paired_cost(source, source.detach(), cost)
    assert (own == 0).all()
    own.sum().backward()
    assert (source.grad == 0).all()


def test_small_differences_survive_a_large_offset_in_few_dimensions():
    source = torch.tensor([[1000.0, 0.0], [1000.0, 0.25]])
    expected = torch.tensor([[0.0, 0.25], [0.25, 0.0]])
    assert torch.equal(ground_cost(source, source, "euclidean"), expected)


def test_unknown_costs_and_unequal_dimensions_are_refused():
    with pytest.raises(ValueError, match="'euclidean' or 'sqeuclidean', got 'l1'"):
        ground_cost(torch.zeros(2, 2), torch.zeros(2, 2), "l1")
    with pytest.raises(ValueError, match="'euclidean' or 'sqeuclidean'"):
        paired_cost(torch.zeros(2, 2), torch.zeros(2, 2), "l1")
    with pytest.raises(ValueError, match="equally many coordinates"):
        ground_cost(torch.zeros(2, 2), torch.zeros(2, 3), "euclidean")
    with pytest.raises(TypeError, match="source"):
        ground_cost(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2), "euclidean")
