"""Students without training against POT, brute force and the definition of each."""

import itertools

import ot
import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.transport.ground import ground_cost
from sextant.methods.transport.sliced.direction_search import (
    annealed_min_sliced,
    smooth_min_sliced,
)
from sextant.methods.transport.sliced.directions import (
    expected_sliced,
    min_sliced,
    random_directions,
)
from sextant.methods.transport.sliced.matchers import (
    AnnealedMinSliced,
    ExactMatching,
    ExpectedSlicedMatching,
    IndependentMatching,
    Matching,
    MinSlicedMatching,
    SinkhornMatching,
    SmoothMinSliced,
    TransferredDirection,
    round_to_marginals,
)

COSTS = ("euclidean", "sqeuclidean")
DRAWING = (
    MinSlicedMatching,
    ExpectedSlicedMatching,
    SmoothMinSliced,
    AnnealedMinSliced,
    TransferredDirection,
)
ALL = (IndependentMatching, ExactMatching, SinkhornMatching, *DRAWING)


class Problems:
    """Data with one problem, of two clouds that differ by a shear of a long cloud."""

    def problem(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        source, noise = (torch.randn(60, 2, generator=generator) for _ in range(2))
        source[:, 0] *= 5
        return source, source + 0.3 * noise


class Pairs:
    """Data with training and test pairs."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluation_pairs(self, split: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self.asked.append(split)
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(4, 2, 30, 2, generator=generator)
        return [(pair[0], pair[1] + 1) for pair in draw]


def begun(student, seed: int = 0, data: object = None):
    student.prepare(Streams(seed), {}, data or Problems())
    return student


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_plan_has_uniform_marginals_and_costs_at_least_the_optimum(clouds, kind, dtype):
    source, target = (points.to(dtype) for points in clouds(40, 2))
    student = begun(kind())
    plan = student.match(source, target)
    rows, columns = plan.marginals()
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / 40), rtol=0, atol=1e-14)
    torch.testing.assert_close(columns, torch.full_like(columns, 1 / 40), rtol=0, atol=1e-14)
    for cost in COSTS:
        optimum = ot.emd2([], [], ground_cost(source, target, cost).double().numpy())
        assert plan.cost(source, target, cost) >= optimum - 1e-6
    again = student.match(source, target)
    assert torch.equal(plan.mass, again.mass)
    assert torch.equal(plan.target_index, again.target_index)


@pytest.mark.parametrize("kind", [k for k in ALL if k is not SmoothMinSliced])
def test_clouds_may_differ_in_size(clouds, kind):
    source, target = clouds(30, 2)
    plan = begun(kind()).match(source[:20], target)
    assert plan.shape == (20, 30)
    rows, columns = plan.marginals()
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / 20), rtol=0, atol=1e-14)
    torch.testing.assert_close(columns, torch.full_like(columns, 1 / 30), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", DRAWING)
def test_random_directions_come_from_the_seed_and_need_prepare(clouds, kind):
    source, target = clouds(40, 6)
    data = Pairs()
    data.evaluation_pairs = lambda split: [clouds(20, 6, 1)]
    plans = [begun(kind(), seed, data).match(source, target) for seed in (0, 0, 1)]
    assert torch.equal(plans[0].dense(), plans[1].dense())
    assert not torch.equal(plans[0].dense(), plans[2].dense())
    with pytest.raises(ValueError, match="prepare"):
        kind().match(source, target)


def test_independent_matching_costs_the_mean_of_all_permutations(clouds):
    source, target = clouds(5, 2)
    plan = IndependentMatching().match(source, target)
    cost = ground_cost(source, target, "euclidean")
    every = [
        cost[torch.arange(5), torch.tensor(order)].mean()
        for order in itertools.permutations(range(5))
    ]
    expected = torch.stack(every).mean()
    torch.testing.assert_close(plan.cost(source, target, "euclidean"), expected)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("m", [40, 25])
def test_exact_matching_costs_what_emd_costs(clouds, cost, m):
    source, target = clouds(40, 3)
    target = target[:m]
    expected = ot.emd2([], [], ground_cost(source, target, cost).numpy())
    plan = ExactMatching(cost).match(source, target)
    assert plan.cost(source, target, cost).item() == pytest.approx(expected, rel=1e-9)
    assert plan.is_bijection == (m == 40)


@pytest.mark.parametrize("cost", COSTS)
def test_sinkhorn_is_near_the_entropic_plan_and_falls_to_the_optimum(clouds, cost):
    source, target = clouds(40, 3)
    matrix = ground_cost(source, target, cost)
    weights = torch.full((40,), 1 / 40).double().numpy()
    entropic = ot.bregman.sinkhorn_log(
        weights, weights, matrix.numpy(), 0.05 * matrix.mean().item(), 20_000, 1e-12
    )
    plan = SinkhornMatching(cost, tolerance=1e-6, iterations=20_000).match(source, target)
    torch.testing.assert_close(plan.dense(), torch.from_numpy(entropic), rtol=0, atol=1e-7)
    costs = [
        SinkhornMatching(cost, epsilon).match(source, target).cost(source, target, cost).item()
        for epsilon in (1.0, 0.1, 0.01)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(ot.emd2([], [], matrix.numpy()), rel=0.02)


def test_unconverged_sinkhorn_still_answers_with_a_plan(clouds):
    source, target = clouds(40, 2)
    plan = SinkhornMatching(epsilon=0.002, iterations=1, tolerance=None).match(source, target)
    for side in plan.marginals():
        torch.testing.assert_close(side, torch.full_like(side, 1 / 40), rtol=0, atol=1e-14)


def test_points_on_one_spot_are_matched():
    cloud = torch.ones(6, 2)
    for kind in (SinkhornMatching, ExactMatching, SmoothMinSliced):
        assert begun(kind()).match(cloud, cloud).cost(cloud, cloud, "euclidean") == 0


@pytest.mark.parametrize("shape", [(6, 6), (4, 9)])
def test_rounding_moves_a_plan_no_further_than_its_error_allows(shape):
    generator = torch.Generator().manual_seed(0)
    plan = torch.rand(shape, generator=generator, dtype=torch.float64)
    plan[0] *= 20
    plan[:, -1] = 0
    plan /= plan.sum()
    rounded = round_to_marginals(plan)
    rows, columns = (torch.full((k,), 1 / k, dtype=torch.float64) for k in shape)
    torch.testing.assert_close(rounded.sum(1), rows, rtol=0, atol=1e-15)
    torch.testing.assert_close(rounded.sum(0), columns, rtol=0, atol=1e-15)
    assert (rounded >= 0).all()
    error = (plan.sum(1) - rows).abs().sum() + (plan.sum(0) - columns).abs().sum()
    assert (rounded - plan).abs().sum() <= 2 * error
    torch.testing.assert_close(round_to_marginals(rounded), rounded, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="plan"):
        round_to_marginals(-plan)


def test_sliced_students_answer_what_their_functions_find(clouds):
    source, target = clouds(40, 3)
    fresh = lambda: Streams(5).generator("directions", 0)  # noqa: E731
    rays = random_directions(12, 3, fresh())
    expected = {
        MinSlicedMatching("sqeuclidean", 12): min_sliced(source, target, rays, "sqeuclidean").plan,
        ExpectedSlicedMatching("euclidean", 12, 3.0): expected_sliced(
            source, target, rays, "euclidean", 3.0
        ),
        SmoothMinSliced("euclidean", steps=9, noise=0.7, optimiser="adam"): smooth_min_sliced(
            source, target, fresh(), "euclidean", steps=9, noise=0.7, optimiser="adam"
        ).plan,
        AnnealedMinSliced("euclidean", steps=9, temperature=0.2): annealed_min_sliced(
            source, target, fresh(), "euclidean", steps=9, temperature=0.2
        ).plan,
    }
    for student, plan in expected.items():
        assert torch.equal(begun(student, 5).match(source, target).dense(), plan.dense())


def test_a_direction_is_transferred_from_the_first_problem():
    student = begun(TransferredDirection("euclidean", 200))
    source, target = Problems().problem(0)
    rays = random_directions(200, 2, Streams(0).generator("directions", 0))
    best = min_sliced(source, target, rays, "euclidean")
    assert torch.equal(student.direction, rays[best.index])
    assert torch.equal(student.match(source, target).dense(), best.plan.dense())
    # On a pair that needs another direction it keeps the one it has.
    turned = [points.flip(1) for points in Problems().problem(1)]
    searched = begun(MinSlicedMatching("euclidean", 200)).match(*turned)
    own = student.match(*turned).cost(*turned, "euclidean")
    assert own > 1.2 * searched.cost(*turned, "euclidean")


def test_a_direction_is_chosen_for_all_training_pairs_and_no_test_pair():
    data = Pairs()
    student = begun(TransferredDirection("sqeuclidean", 50), data=data)
    assert data.asked == ["train"]
    rays = random_directions(50, 2, Streams(0).generator("directions", 0))
    means = [
        sum(
            min_sliced(source, target, ray[None], "sqeuclidean").cost.item()
            for source, target in data.evaluation_pairs("train")
        )
        for ray in rays
    ]
    assert torch.equal(student.direction, rays[torch.tensor(means).argmin()])
    with pytest.raises(TypeError, match="problem"):
        TransferredDirection().prepare(Streams(0), {}, object())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ExactMatching("l1"), "cost"),
        (lambda: SinkhornMatching(epsilon=0.0), "epsilon"),
        (lambda: SinkhornMatching(iterations=0), "iterations"),
        (lambda: SinkhornMatching(tolerance=0.0), "tolerance"),
        (lambda: MinSlicedMatching(directions=0), "directions"),
        (lambda: ExpectedSlicedMatching(beta=-1.0), "beta"),
        (lambda: SmoothMinSliced("l1"), "cost"),
        (lambda: AnnealedMinSliced("l1"), "cost"),
        (lambda: TransferredDirection(directions=0), "directions"),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_clouds_that_are_not_finite_are_refused(clouds):
    source, target = clouds(6, 2)
    target[0, 0] = torch.nan
    for kind in ALL:
        with pytest.raises(ValueError, match=r"NaN|finite"):
            begun(kind()).match(source, target)
    with pytest.raises(NotImplementedError, match="Matching"):
        Matching().match(source, source)
