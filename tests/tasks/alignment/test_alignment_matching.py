"""What counts as an answer, and what an answer costs."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.alignment.matching import Question, checked_plan
from tasks.shared.scoring import one_thread


def plan(source, target, mass):
    return SimpleNamespace(
        source_index=torch.tensor(source),
        target_index=torch.tensor(target),
        mass=torch.tensor(mass, dtype=torch.float32),
    )


def bijection(targets):
    n = len(targets)
    return plan(list(range(n)), list(targets), [1 / n] * n)


class Answers:
    """A student with one answer for everything."""

    def __init__(self, answer):
        self.answer = answer

    def match(self, source, target):
        return self.answer(source, target) if callable(self.answer) else self.answer


def points(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 5),
    d=st.integers(1, 3),
    seed=st.integers(0, 50),
    cost=st.sampled_from(["euclidean", "sqeuclidean"]),
)
def test_optimum_random_and_cost_agree_with_all_permutations(n, d, seed, cost):
    source, target = points(n, d, seed), points(n, d, seed + 100)
    question = Question(source, target, cost)
    prices = {}
    for permutation in itertools.permutations(range(n)):
        lengths = [math.dist(source[i].tolist(), target[j].tolist()) for i, j in
                   enumerate(permutation)]  # fmt: skip
        prices[permutation] = sum(v if cost == "euclidean" else v * v for v in lengths) / n
        answer = question.ask(Answers(bijection(permutation)))
        assert answer.cost == pytest.approx(prices[permutation], rel=1e-5)
        assert answer.plan.partners().tolist() == list(permutation)
    assert question.optimum == pytest.approx(min(prices.values()), rel=1e-5)
    assert question.random == pytest.approx(sum(prices.values()) / len(prices), rel=1e-5)


def test_clouds_of_different_sizes_are_asked_about_too():
    source, target = points(4, 2, 0), points(6, 2, 1)
    question = Question(source, target, "euclidean")
    # Every source point as three of twelve parts, every target point as two.
    fine = Question(source.repeat_interleave(3, 0), target.repeat_interleave(2, 0), "euclidean")
    assert question.optimum == pytest.approx(fine.optimum, rel=1e-6)
    rows, columns = zip(*itertools.product(range(4), range(6)), strict=True)
    everywhere = plan(rows, columns, [1 / 24] * 24)
    assert question.ask(Answers(everywhere)).cost == pytest.approx(question.random)


def test_costs_are_told_relative_to_the_best_and_to_chance():
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    question = Question(square, square + torch.tensor([0.0, 1.0]), "euclidean")
    crossed = question.ask(Answers(bijection([1, 0]))).cost
    assert crossed == pytest.approx(math.sqrt(2))
    assert question.ratio(crossed) == pytest.approx(math.sqrt(2))
    assert question.gap(crossed) == pytest.approx(math.sqrt(2) - 1)
    assert question.normalised(crossed) == pytest.approx(2)
    assert question.normalised(question.random) == pytest.approx(1)
    assert question.normalised(question.optimum) == 0
    still = Question(square, square, "euclidean")
    for ask in (still.gap, still.ratio):
        with pytest.raises(ValueError, match="source and target must differ"):
            ask(1.0)
    alone = Question(square[:1], square[1:], "euclidean")
    with pytest.raises(ValueError, match="equally far apart"):
        alone.normalised(1.0)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 400), seed=st.integers(0, 50))
def test_rounding_to_float32_is_no_cheating(n, seed):
    permutation = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    checked = checked_plan(bijection(permutation), n, n)
    np.testing.assert_allclose(checked.mass, 1 / n, rtol=1e-12)
    assert checked.mass.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (plan([0, 1, 2], [0, 0, 2], [1 / 3] * 3), "mass must give every target point 1/3"),
        (plan([0, 0, 2], [0, 1, 2], [1 / 3] * 3), "mass must give every source point 1/3"),
        (plan([0, 1, 2], [0, 1, 2], [0.3333, 0.3333, 0.3334]), "misplaced"),
        (plan([0, 1, 2], [0, 1, 2], [0.3] * 3), "misplaced"),
        (plan([0, 1, 2], [0, 1, 3], [1 / 3] * 3), r"target_index must lie in 0\.\.2, got 0\.\.3"),
        (plan([-1, 1, 2], [0, 1, 2], [1 / 3] * 3), r"source_index must lie in 0\.\.2"),
        (plan([0, 1], [0, 1, 2], [1 / 3] * 3), "must be as long as each other"),
        (plan([], [], []), "whole numbers|as long as each other"),
        (plan([0.0, 1.0, 2.0], [0, 1, 2], [1 / 3] * 3), "must hold whole numbers"),
        # Marginals are right, but mass is taken back from a long way to shorten the rest.
        (plan([0, 1, 2, 0, 0, 1, 1], [0, 1, 2, 1, 0, 0, 1],
              [1 / 3] * 3 + [-0.1, 0.1, -0.1, 0.1]), "mass must not be negative"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(answer, complaint):
    with pytest.raises(ValueError, match=complaint):
        Question(points(3, 2, 0), points(3, 2, 1), "euclidean").ask(Answers(answer))


def test_mass_that_is_not_finite_means_that_the_run_diverged():
    answer = plan([0, 1], [0, 1], [0.5, math.nan])
    with pytest.raises(FloatingPointError, match="diverged"):
        checked_plan(answer, 2, 2)


def test_a_student_cannot_move_the_points_it_is_asked_about():
    source, target = points(5, 2, 0), points(5, 2, 1)
    question = Question(source, target, "euclidean")

    def shorten(asked, reached):
        asked.zero_()
        reached.zero_()
        return bijection(range(5))

    honest = question.ask(Answers(bijection(range(5)))).cost
    assert question.ask(Answers(shorten)).cost == honest
    assert question.ask(Answers(bijection(range(5)))).cost == honest


def test_a_cost_below_the_optimum_is_refused():
    question = Question(points(5, 2, 0), points(5, 2, 1), "euclidean")
    honest = question.ask(Answers(bijection(range(5)))).cost
    question.optimum = honest + 1e-4
    with pytest.raises(ValueError, match="is below the optimum"):
        question.ask(Answers(bijection(range(5))))
    question.optimum = honest + 1e-9
    assert question.ask(Answers(bijection(range(5)))).cost == question.optimum


def test_origins_are_means_over_the_mass_that_arrives():
    checked = checked_plan(plan([0, 0, 1, 1], [0, 1, 0, 1], [0.4, 0.1, 0.1, 0.4]), 2, 2)
    source = np.array([[0.0, 0.0], [1.0, 10.0]])
    np.testing.assert_allclose(checked.origins(source), [[0.2, 2.0], [0.8, 8.0]], rtol=1e-6)
    assert checked.partners().tolist() == [0, 1]
    assert checked_plan(plan([0, 1], [1, 0], [0.5, 0.5]), 2, 2).partners().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("source", "target", "cost", "complaint"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), "euclidean", r"must be \(N, d\) and \(M, d\)"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), "euclidean", "finite values only"),
        (torch.zeros(3, 2), torch.ones(3, 2), "cosine", "cost must be one of euclidean, sqeuclid"),
    ],
)
def test_bad_questions_are_refused(source, target, cost, complaint):
    with pytest.raises(ValueError, match=complaint):
        Question(source, target, cost)


def test_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    inside = []

    def broken():
        with one_thread():
            inside.append(torch.get_num_threads())
            raise KeyError

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError):
            broken()
        assert inside == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
