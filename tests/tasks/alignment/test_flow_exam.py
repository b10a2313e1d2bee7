"""The flow exam, taken by flows whose paths are known in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from sextant.contracts import Streams
from sextant.methods.flow.reference import SecondDraw
from sextant.methods.transport.couplings import Exact, Independent
from tasks.alignment.flow_exam import (
    FlowPathExam,
    euler_paths,
    normalised_path_energy,
    pair_cost,
    path_scores,
)
from tasks.generation.data import PlaneData
from tasks.shared.distances import frechet_distance
from tasks.shared.plane import EightGaussians, StandardNormal

STREAMS = Streams(3)
STEPS = 100


class FieldStudent:
    """Follows a given field dz/dt(z, t), t from 1 to 0, by Euler steps of its own."""

    def __init__(self, field, coupling=None):
        self.field = field
        self.coupling = coupling or Independent()
        self.coupling_seconds = torch.tensor(2.5, dtype=torch.float64)

    def velocity(self, z, t):
        assert t.shape == z.shape[:1]
        return self.field(z, t)

    def generate(self, source, steps, labels=None):
        z = source.double()
        for k in range(steps):
            z = z - self.field(z, torch.full((len(z),), 1.0 - k / steps)) / steps
        return z.to(source)


@pytest.fixture(scope="module")
def plane():
    module = PlaneData(StandardNormal(), EightGaussians(), 16, 1, evaluation_points=60)
    module.prepare(STREAMS, {})
    return module


def points(n=40, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=10, deadline=None)
@given(
    shift=st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 0.1), min_size=1, max_size=4),
    steps=st.integers(1, 12),
)
def test_a_translation_is_straight_and_optimal(shift, steps):
    shift = torch.tensor(shift, dtype=torch.float64)
    source = points(20, len(shift))
    paths = euler_paths(lambda z, t: -shift.expand_as(z), source, steps)
    torch.testing.assert_close(paths[-1], source + shift)
    scores = path_scores(paths)
    assert scores["straightness"].value == pytest.approx(0, abs=1e-9)
    assert scores["npe"].value == pytest.approx(0, abs=1e-9)


def test_straightness_of_a_rotation():
    # The Euler map of the field is a rotation by arctan(angle / steps) that stretches by `growth`.
    angle = 1.9
    source = points()
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    scores = path_scores(euler_paths(lambda z, t: -angle * z @ turn.T, source, STEPS))
    radius = source.square().sum(1).mean().item()
    growth, corner = math.sqrt(1 + (angle / STEPS) ** 2), math.atan(angle / STEPS)
    energy = angle**2 * radius * sum(growth ** (2 * k) for k in range(STEPS)) / STEPS
    whole = growth**STEPS
    move = radius * (whole**2 - 2 * whole * math.cos(STEPS * corner) + 1)
    assert scores["straightness"].value == pytest.approx(energy - move, rel=1e-9)
    # Without the steps' error: angle^2 - 2 + 2 cos(angle) of the squared radius.
    limit = radius * (angle**2 - 2 + 2 * math.cos(angle))
    assert scores["straightness"].value == pytest.approx(limit, rel=0.05)
    ends = source @ (whole * torch.matrix_exp(STEPS * corner * turn)).T
    cost = cdist(source, ends, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    transport = cost[rows, columns].mean()
    assert transport < 0.9 * move  # a rotation is not the optimal map, so npe sees more than bends
    assert scores["npe"].value == pytest.approx((energy - transport) / transport, rel=1e-9)


def test_npe_of_a_dilation():
    # Optimal as a map and straight as a path, but run at a growing speed.
    rate, source = 1.2, points(d=3)
    scores = path_scores(euler_paths(lambda z, t: -rate * z, source, STEPS))
    growth, radius = 1 + rate / STEPS, source.square().sum(1).mean().item()
    energy = rate**2 * radius * sum(growth ** (2 * k) for k in range(STEPS)) / STEPS
    transport = (growth**STEPS - 1) ** 2 * radius
    assert scores["npe"].value == pytest.approx(energy / transport - 1, rel=1e-9)
    assert scores["straightness"].value == pytest.approx(energy - transport, rel=1e-9)
    assert scores["straightness"].value > 0.1


def test_the_time_falls_from_one_and_never_reaches_zero():
    asked = []

    def field(z, t):
        asked.append(t[0].item())
        return torch.ones_like(z)

    source = points(3)
    paths = euler_paths(field, source, 4)
    assert asked == [1.0, 0.75, 0.5, 0.25]
    torch.testing.assert_close(paths[:, 0, 0] - source[0, 0], -torch.arange(5).double() / 4)


def test_the_exam_scores_samples_and_paths(plane):
    shift = torch.tensor([3.0, 4.0])
    student = FieldStudent(lambda z, t: -shift.expand_as(z))
    marked = FlowPathExam([1, 2], path_steps=10, frechet=True).examine(student, plane, STREAMS, {})
    samples = plane.evaluation_source() + shift
    cost = cdist(samples, plane.evaluation_target(), "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    root = math.sqrt(cost[rows, columns].mean())
    expected = frechet_distance(samples, plane.evaluation_target())
    for k in (1, 2):
        assert marked.scores[f"w2@{k}"].value == pytest.approx(root, rel=1e-6)
        assert marked.scores[f"latent_frechet@{k}"].value == pytest.approx(expected, rel=1e-5)
        assert marked.arrays[f"samples@{k}"].shape == (60, 2)
    assert marked.scores["straightness"].value == pytest.approx(0, abs=1e-9)
    assert marked.scores["npe"].value == pytest.approx(0, abs=1e-6)
    assert marked.scores["coupling_seconds"].value == 2.5
    assert all(score.better == "lower" for score in marked.scores.values())
    paths = marked.arrays["paths"]
    assert paths.shape == (60, 11, 2)
    assert paths.dtype == np.float32
    np.testing.assert_array_equal(paths[:, 0], marked.arrays["source"])
    np.testing.assert_allclose(paths[:, -1], marked.arrays["samples@1"], atol=1e-5)


def test_marks_of_a_whole_run_also_stand_on_the_line_of_the_largest_k(plane):
    student = FieldStudent(lambda z, t: -torch.ones_like(z))
    marked = FlowPathExam([4, 1], path_steps=5, pair_batches=2).examine(student, plane, STREAMS, {})
    once = {"straightness", "npe", "pair_cost", "coupling_seconds"}
    names = once | {f"{name}@4" for name in once} | {"w2@1", "w2@4"}
    assert set(marked.scores) == names
    for name in once:
        assert marked.scores[name] == marked.scores[f"{name}@4"]


def test_a_student_without_paths_or_pairs_gets_the_distances_only(plane):
    floor = SecondDraw()
    floor.prepare(STREAMS, {}, plane)
    marked = FlowPathExam([1]).examine(floor, plane, STREAMS, {})
    assert set(marked.scores) == {"w2@1"}
    assert "paths" not in marked.arrays


def test_pair_cost_is_that_of_the_coupling_on_fresh_batches(plane):
    costs, exact = [], []
    for k in range(4):
        source = plane.draw_source(16, STREAMS.generator("pair cost source", k))
        target = plane.draw_target(16, STREAMS.generator("pair cost target", k))
        cost = cdist(source, target, "sqeuclidean")
        costs.append(np.diag(cost).mean())
        rows, columns = linear_sum_assignment(cost)
        exact.append(cost[rows, columns].mean())
        assert not torch.equal(source, plane.draw_batch(k)[0])
    found = pair_cost(Independent(), plane, STREAMS, 4)
    assert found.value == pytest.approx(np.mean(costs), rel=1e-6)
    assert found.standard_error == pytest.approx(np.std(costs, ddof=1) / 2, rel=1e-6)
    assert found.n == 64
    assert pair_cost(Exact(), plane, STREAMS, 4).value == pytest.approx(np.mean(exact), rel=1e-6)
    assert pair_cost(Independent(), plane, STREAMS, 1).standard_error is None


def test_bad_flows_and_settings_are_named(plane):
    with pytest.raises(ValueError, match=r"velocity must return shape \(3, 2\), got \(3, 1\)"):
        euler_paths(lambda z, t: z[:, :1], points(3), 2)
    with pytest.raises(FloatingPointError, match="diverged"):
        euler_paths(lambda z, t: z * math.nan, points(3), 2)
    with pytest.raises(ValueError, match="transport must be positive"):
        normalised_path_energy(1.0, 0.0)
    for name in ("path_steps", "pair_batches"):
        with pytest.raises(ValueError, match=name):
            FlowPathExam([1], **{name: 0})
    with pytest.raises(ValueError, match="steps must be distinct"):
        FlowPathExam([1, 1])
