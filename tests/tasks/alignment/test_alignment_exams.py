"""The exams, taken by students whose marks are known beforehand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from tasks.alignment import matching
from tasks.alignment.data import BatchLadder, DriftData
from tasks.alignment.ladder import LadderExam, power_law
from tasks.alignment.levels import level_grid, levels
from tasks.alignment.matching import Question
from tasks.alignment.scoring import ChamferExam, DriftExam, PairsExam, chamfer
from tasks.shared.plane import StandardNormal

STREAMS = Streams(0)


def bijection(targets):
    n = len(targets)
    return SimpleNamespace(
        source_index=torch.arange(n),
        target_index=torch.as_tensor(targets),
        mass=torch.full((n,), 1 / n),
    )


class Exact:
    def match(self, source, target):
        from scipy.optimize import linear_sum_assignment

        costs = torch.cdist(source.double(), target.double())
        return bijection(linear_sum_assignment(costs.numpy())[1])


class Linear:
    """Sorts both clouds along a direction; a slicer as exams look for it."""

    def __init__(self, direction):
        self.direction = torch.tensor(direction)

    def slicer(self, points, context):
        return points @ self.direction

    def match(self, source, target):
        first, second = (cloud @ self.direction for cloud in (source, target))
        ranks = first.argsort().argsort()
        return bijection(second.argsort()[ranks])


class Trained:
    """Answers as its table of moments says; a moment it does not know is an error."""

    def __init__(self, moments, iterations):
        self.moments, self.iterations = moments, iterations

    def after(self, problem, iteration):
        return self.moments[problem, iteration]


def marks(examination):
    return {name: score.value for name, score in examination.scores.items()}


@pytest.fixture
def drift():
    data = DriftData(iterations_each=5, problems=3, points=24)
    data.prepare(STREAMS, {})
    return data


def price(student, pair):
    """Mean distance of the student's pairs, worked out on its own."""
    answer = student.match(*pair)
    return float((pair[0] - pair[1][answer.target_index]).double().norm(dim=1).mean())


def test_marks_of_a_student_without_iterations(drift):
    student = Linear([1.0, 0.0])
    examination = DriftExam(degrees=[15, 30, 90], jitter=[0.1]).examine(student, drift, STREAMS, {})
    scores = marks(examination)
    names = {"cost_0", "cost_1", "cost_2", "gap", "rotation_15", "rotation_30", "milliseconds"}
    assert set(scores) == names
    costs = [price(student, drift.problem(p)) for p in range(3)]
    optima = [price(Exact(), drift.problem(p)) for p in range(3)]
    assert [scores[f"cost_{p}"] for p in range(3)] == pytest.approx(costs, rel=1e-5)
    # Problem 0 is left out: nothing was carried over to it.
    gaps = [(costs[p] - optima[p]) / optima[p] for p in (1, 2)]
    assert scores["gap"] == pytest.approx(sum(gaps) / 2, rel=1e-5)
    assert gaps[0] != pytest.approx((costs[0] - optima[0]) / optima[0], rel=1e-3)
    turned = drift.shifted("rotation", 30)
    expected = price(student, turned) / price(Exact(), turned)
    assert scores["rotation_30"] == pytest.approx(expected, rel=1e-5)
    assert scores["milliseconds"] > 0
    assert all(score.better == "lower" for score in examination.scores.values())
    assert examination.arrays["iterations"].shape == (0,)
    assert examination.arrays["cost"].shape == (1, 3)
    np.testing.assert_allclose(examination.arrays["optimum"], optima, rtol=1e-5)


def test_every_moment_of_a_trained_student_is_asked_on_its_own_problem(drift):
    across, up, exact = Linear([1.0, 0.0]), Linear([0.0, 1.0]), Exact()
    moments = {(p, 0): across for p in range(3)} | {(0, 5): up, (1, 5): exact, (2, 5): up}
    student = Trained(moments, (0, 5))
    student.curve = torch.arange(6.0).reshape(3, 2)
    student.evaluated = (0, 5)
    examination = DriftExam().examine(student, drift, STREAMS, {})
    scores = marks(examination)
    for (p, k), moment in moments.items():
        assert scores[f"cost_{p}@{k}"] == pytest.approx(price(moment, drift.problem(p)), rel=1e-5)
    optimum = price(exact, drift.problem(2))
    expected = (price(up, drift.problem(2)) - optimum) / optimum / 2
    assert scores["gap@5"] == pytest.approx(expected, rel=1e-5)
    # What carries over to shifts is the student as problem 0 left it.
    turned = drift.shifted("rotation", 15)
    for k, moment in ((0, across), (5, up)):
        assert scores[f"rotation_15@{k}"] == pytest.approx(
            price(moment, turned) / price(exact, turned), rel=1e-5
        )
        assert scores[f"milliseconds@{k}"] > 0
    arrays = examination.arrays
    np.testing.assert_array_equal(arrays["curve"], student.curve)
    assert arrays["curve_iterations"].tolist() == [0, 5]
    assert arrays["partner"].shape == (2, 3, 24)
    np.testing.assert_array_equal(
        arrays["partner"][0, 1], across.match(*drift.problem(1)).target_index
    )
    ratios = [
        price(up, pair) / price(exact, pair)
        for pair in (drift.shifted("jitter", amount) for amount in (0.05, 0.1, 0.2, 0.4))
    ]
    np.testing.assert_allclose(arrays["jitter_ratio"], ratios, rtol=1e-5)
    assert "levels" not in arrays, "one of the moments shows no slicer"


def test_level_arrays_hold_the_scores_of_every_problem(drift):
    moments = {(p, 5): Linear([1.0, float(p)]) for p in range(3)}
    arrays = DriftExam().examine(Trained(moments, (5,)), drift, STREAMS, {}).arrays
    x, y = arrays["level_x"], arrays["level_y"]
    for p in range(3):
        np.testing.assert_allclose(arrays["levels"][p], x[None, :] + p * y[:, None], atol=1e-5)
    for side in range(2):
        for points in (drift.problem(0)[side], drift.problem(2)[side]):
            assert x[0] < points[:, 0].min() <= points[:, 0].max() < x[-1]
            assert y[0] < points[:, 1].min() <= points[:, 1].max() < y[-1]


def test_scores_that_depend_on_the_cloud_have_no_level_curves():
    across, up = level_grid([np.array([[0.0, 0.0], [1.0, 2.0]])])
    assert levels(None, across, up) is None
    assert levels(lambda points, context: points[:, 0] - points[:, 0].mean(), across, up) is None

    class Space:
        dimension = 3

    assert levels(Space(), across, up) is None
    assert levels(lambda points, context: points[:, 1] ** 2, across, up).shape == (61, 61)


def test_equal_seeds_give_equal_cost_tables():
    tables = []
    for seed in (0, 0, 1):
        data = DriftData(iterations_each=5, problems=3, points=24)
        data.prepare(Streams(seed), {})
        scores = marks(DriftExam().examine(Linear([1.0, 1.0]), data, Streams(seed), {}))
        del scores["milliseconds"]
        tables.append(scores)
    assert tables[0] == tables[1] != tables[2]


class Pairs:
    """Three test pairs and two training pairs on two unit intervals one above the other."""

    def __init__(self):
        base = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        heights = {"train": (1.0, 2.0), "test": (1.0, 3.0, 2.0)}
        self.pairs = {
            split: [(base, base + torch.tensor([0.0, height])) for height in values]
            for split, values in heights.items()
        }

    def evaluation_pairs(self, split):
        return self.pairs[split]


class Crossing:
    def match(self, source, target):
        return bijection([1, 0])


def test_marks_of_pairs_by_hand():
    scores = PairsExam().examine(Crossing(), Pairs(), STREAMS, {}).scores
    diagonal = {height: math.sqrt(1 + height**2) for height in (1.0, 2.0, 3.0)}
    test = [diagonal[h] for h in (1.0, 3.0, 2.0)]
    assert scores["train_cost"].value == pytest.approx((diagonal[1.0] + diagonal[2.0]) / 2)
    assert scores["test_cost"].value == pytest.approx(np.mean(test))
    assert scores["test_cost"].standard_error == pytest.approx(np.std(test, ddof=1) / math.sqrt(3))
    gaps = [value / height - 1 for value, height in zip(test, (1, 3, 2), strict=True)]
    assert scores["gap"].value == pytest.approx(np.mean(gaps))
    assert scores["gap"].standard_error == pytest.approx(np.std(gaps, ddof=1) / math.sqrt(3))
    assert scores["train_gap"].value == pytest.approx((gaps[0] + gaps[2]) / 2)
    # A random matching is straight half of the time, so crossing is twice as bad as chance.
    assert scores["normalised"].value == pytest.approx(2)
    assert (scores["test_cost"].n, scores["train_cost"].n) == (3, 2)
    assert scores["training_seconds"].value == 0


def test_squared_costs_are_asked_for_by_name():
    scores = marks(PairsExam("sqeuclidean").examine(Crossing(), Pairs(), STREAMS, {}))
    assert scores["test_cost"] == pytest.approx((2 + 10 + 5) / 3)
    with pytest.raises(ValueError, match="cost must be one of"):
        PairsExam("cosine")


def test_arrays_of_pairs_say_who_goes_where():
    arrays = PairsExam().examine(Crossing(), Pairs(), STREAMS, {}).arrays
    assert arrays["source"].shape == arrays["origin"].shape == (3, 2, 2)
    assert arrays["partner"].tolist() == [[1, 0]] * 3
    np.testing.assert_allclose(arrays["origin"][0], [[1, 0], [0, 0]])
    np.testing.assert_allclose(arrays["optimum"], [1, 3, 2])
    assert arrays["test_costs"].shape == (3,)


class Clouds:
    """Pairs so large that exact matching takes longer than sorting."""

    def evaluation_pairs(self, split):
        draws = torch.randn(4, 300, 2, generator=torch.Generator().manual_seed(len(split)))
        return [(draws[0], draws[1]), (draws[2], draws[3])]


def test_training_is_paid_back_where_the_student_is_faster():
    student = Linear([1.0, 0.0])
    student.training_seconds = torch.tensor(3.0, dtype=torch.float64)
    scores = marks(PairsExam().examine(student, Clouds(), STREAMS, {}))
    saved = (scores["exact_milliseconds"] - scores["milliseconds"]) / 1000
    assert saved > 0
    assert scores["break_even"] == pytest.approx(3 / saved)
    assert scores["training_seconds"] == 3


def test_a_slow_student_never_pays_back_and_its_first_answer_is_not_timed(monkeypatch):
    """The clock stands still but for what the student takes."""
    now = [100.0]
    monkeypatch.setattr(matching, "time", SimpleNamespace(process_time=lambda: now[0]))

    class Slow:
        def __init__(self):
            self.asked = 0

        def match(self, source, target):
            self.asked += 1
            now[0] += 0.5 if self.asked == 1 else 0.05
            return bijection([1, 0])

    student = Slow()
    scores = marks(PairsExam().examine(student, Pairs(), STREAMS, {}))
    assert "break_even" not in scores
    assert scores["milliseconds"] == pytest.approx(50)
    assert student.asked == 1 + 2 + 3


def test_a_cheating_student_is_refused_by_every_exam(drift):
    class Cheat:
        """Sends every point to its nearest, wherever the mass should have gone."""

        iterations = ()

        def match(self, source, target):
            return bijection(torch.cdist(source, target).argmin(1))

    ladder = small_ladder()
    for exam, data in ((DriftExam(), drift), (PairsExam(), Clouds()), (LadderExam(), ladder)):
        with pytest.raises(ValueError, match="misplaced"):
            exam.examine(Cheat(), data, STREAMS, {})


def small_ladder(sizes=(4, 8, 16), pool=64, points=16):
    data = BatchLadder(2, points, sizes, pool, source=StandardNormal(), target=StandardNormal())
    data.prepare(STREAMS, {})
    return data


def test_the_ladder_asks_every_size_and_one_fixed_student_for_batches():
    data = small_ladder()
    small, middle, large = Linear([1.0, 0.0]), Linear([0.0, 1.0]), Linear([1.0, 1.0])
    student = Trained({(0, 2): small, (1, 2): middle, (2, 2): large}, (2,))
    examination = LadderExam(batches=20, largest_fitted=16).examine(student, data, STREAMS, {})
    scores = marks(examination)
    for size, trained in ((4, small), (8, middle), (16, large)):
        assert scores[f"cost@{size}"] == pytest.approx(price(trained, data.problem(0)), rel=1e-5)
        assert scores[f"held_out@{size}"] == pytest.approx(
            price(trained, data.held_out()), rel=1e-5
        )
    batches = list(zip(*data.batches(1, 20), strict=True))
    asked = [price(large, pair) for pair in batches]
    expected = np.mean(asked) - price(large, data.pool())
    assert scores["bias@8"] == pytest.approx(expected, rel=1e-4)
    assert examination.scores["bias@8"].standard_error == pytest.approx(
        np.std(asked, ddof=1) / math.sqrt(20), rel=1e-4
    )
    optima = [Question(*pair, "euclidean").optimum for pair in batches]
    assert scores["batch_optimum@8"] == pytest.approx(np.mean(optima))
    assert examination.arrays["sizes"].tolist() == [4, 8, 16]
    assert examination.arrays["bias_error"].shape == (3,)


def test_batches_as_large_as_the_pool_have_no_bias():
    data = small_ladder(sizes=(4, 16), pool=16)
    student = Trained({(p, 2): Linear([1.0, 0.5]) for p in range(2)}, (2,))
    scores = marks(LadderExam(batches=200).examine(student, data, STREAMS, {}))
    assert scores["bias@16"] == pytest.approx(0, abs=1e-6)
    assert scores["bias@4"] > 0.05
    assert not [name for name in scores if name.startswith("slope")]


def test_batches_grow_cheaper_at_about_the_root_of_their_size():
    data = small_ladder(sizes=(4, 8, 16, 32), pool=2000, points=32)
    student = Trained({(p, 2): Linear([1.0, 0.0]) for p in range(4)}, (2,))
    examination = LadderExam(batches=60).examine(student, data, STREAMS, {})
    arrays = examination.arrays
    assert (np.diff(arrays["batch_optimum"]) < 0).all()
    assert (np.diff(arrays["bias"]) < 0).all()
    slope = examination.scores["slope@32"]
    assert -1.3 < slope.value < -0.3
    assert slope.n == 4
    fit = power_law(arrays["sizes"], arrays["bias"])
    np.testing.assert_allclose((*arrays["fit"], slope.standard_error), fit)
    assert slope.value == arrays["fit"][1]
    distance = examination.scores["slope_distance@32"].value
    assert distance == pytest.approx(abs(slope.value + 0.5))


def test_a_student_without_iterations_is_asked_for_the_whole_pairs_only():
    data = small_ladder()
    examination = LadderExam().examine(Exact(), data, STREAMS, {})
    assert marks(examination) == pytest.approx(
        {
            "cost": price(Exact(), data.problem(0)),
            "held_out": price(Exact(), data.held_out()),
        },
        rel=1e-5,
    )
    assert "sizes" not in examination.arrays


def test_the_slope_and_its_error_are_those_of_a_linear_regression():
    from scipy.stats import linregress

    sizes = np.array([8, 16, 32, 64, 128])
    values = 3 * sizes**-0.5 * np.exp(0.1 * np.random.default_rng(0).normal(size=5))
    theirs = linregress(np.log(sizes), np.log(values))
    ours = power_law(sizes, values)
    np.testing.assert_allclose(ours, (theirs.intercept, theirs.slope, theirs.stderr), rtol=1e-10)
    assert power_law([1, 2, 4], [1.0, 0.0, 1.0]) is None
    assert power_law([1, 2], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="batches must be at least 2"):
        LadderExam(batches=1)


def test_the_chamfer_distance_agrees_with_all_pairs():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(7, 3)), generator.normal(size=(11, 3))
    squares = ((one[:, None] - other[None]) ** 2).sum(-1)
    assert chamfer(one, other) == pytest.approx(squares.min(1).mean() + squares.min(0).mean())


class StoredShapes:
    def evaluation_clouds(self):
        return torch.rand(60, 20, 3, generator=torch.Generator().manual_seed(0))


class Shifted:
    def __init__(self, shift=0.0, points=20):
        self.shift, self.points = shift, points

    def encode(self, clouds):
        assert len(clouds) <= 50
        return clouds.flatten(1)

    def decode(self, codes):
        return codes.reshape(len(codes), -1, 3)[:, : self.points] + self.shift


def test_marks_of_an_autoencoder():
    exam = ChamferExam()
    perfect = exam.examine(Shifted(), StoredShapes(), STREAMS, {})
    assert perfect.scores["chamfer"].value == 0
    assert perfect.scores["chamfer"].n == 60
    # Far away, every nearest point is a shift and a cloud's extent apart.
    far = exam.examine(Shifted(100.0), StoredShapes(), STREAMS, {}).scores["chamfer"]
    assert far.value == pytest.approx(2 * 3 * 100**2, rel=0.05)
    fewer = exam.examine(Shifted(points=10), StoredShapes(), STREAMS, {})
    assert fewer.scores["chamfer"].value > 0
    assert fewer.arrays["rebuilt"].shape == (3, 10, 3)
    with pytest.raises(FloatingPointError, match="diverged"):
        exam.examine(Shifted(math.nan), StoredShapes(), STREAMS, {})

    class Flat(Shifted):
        def decode(self, codes):
            return codes

    with pytest.raises(ValueError, match="decode must return shape"):
        exam.examine(Flat(), StoredShapes(), STREAMS, {})
