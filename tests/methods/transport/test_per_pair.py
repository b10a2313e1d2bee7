"""A slicer for each pair alone."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.utils import parameters_to_vector

from sextant.contracts import Streams
from sextant.methods.transport.sliced.objectives import SoftPermutation, Stein
from sextant.methods.transport.sliced.per_pair import PerPairSlicer
from sextant.methods.transport.sliced.slicers import SineMLP


def build(seed=1, objective=None, **settings):
    torch.manual_seed(0)
    objective = objective or SoftPermutation("sqeuclidean")
    student = PerPairSlicer(SineMLP(2, [8, 8]), objective, **({"iterations": 12} | settings))
    student.prepare(Streams(seed), {}, None)
    return student


def cost(student, pair):
    return student.match(*pair).cost(*pair, "sqeuclidean").item()


def test_equal_questions_get_equal_answers(clouds):
    pairs = [[points.float() for points in clouds(16, 2, seed)] for seed in range(3)]
    student = build(objective=Stein("sqeuclidean"), batch_size=8)
    template = parameters_to_vector(student.slicer.parameters()).clone()
    answers = [student.match(*pair).target_of_source() for pair in pairs]
    torch.manual_seed(77)
    other = build(objective=Stein("sqeuclidean"), batch_size=8)
    backwards = [other.match(*pair).target_of_source() for pair in reversed(pairs)]
    for answer, again in zip(answers, reversed(backwards), strict=True):
        assert torch.equal(answer, again)
    assert torch.equal(template, parameters_to_vector(student.slicer.parameters()))
    different = build(2, objective=Stein("sqeuclidean"), batch_size=8)
    assert not torch.equal(different.match(*pairs[0]).target_of_source(), answers[0])


def test_iterations_lower_the_cost(clouds):
    for seed in range(2):
        pair = [points.float() for points in clouds(24, 2, seed)]
        untrained, trained = build(iterations=0), build(iterations=60, learning_rate=1e-2)
        matrix = torch.cdist(*pair).square().numpy()
        least = matrix[linear_sum_assignment(matrix)].mean()
        found = cost(trained, pair)
        assert least - 1e-6 <= found < least + 0.5 * (cost(untrained, pair) - least)


def test_it_matches_under_no_grad_and_clouds_of_unequal_size(clouds):
    source, target = clouds(10)[0].float(), clouds(14)[1].float()
    student = build()
    with torch.no_grad():
        plan = student.match(source, target)
    assert plan.shape == (10, 14)
    torch.testing.assert_close(plan.dense(), student.match(source, target).dense())


def test_bad_settings_are_named(clouds):
    with pytest.raises(ValueError, match="keep"):
        build(keep="first").match(*clouds(4))
