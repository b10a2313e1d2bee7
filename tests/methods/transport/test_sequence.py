"""A slicer on a sequence of problems: resuming, warm starts, snapshots, and what is kept."""

import math
import time

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.utils import parameters_to_vector

from sextant.contracts import StepBatches, Streams
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.sequence import SequenceSlicer
from sextant.methods.transport.sliced.slicers import SineMLP
from tests.fitting import quiet_fit

STREAMS, N, EACH, PROBLEMS = Streams(5), 24, 7, 3


def work(seconds):
    """Keeps the processor busy: sleeping takes none of its time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def ring(problem, drift=0.1):
    """A ring of points and a bent line, both turning a little from problem to problem."""
    generator = torch.Generator().manual_seed(17)
    angles = torch.linspace(0, 2 * math.pi, N + 1)[:N]
    source = torch.stack((angles.cos(), angles.sin()), 1) * 2
    line = torch.linspace(-1, 1, N)
    target = torch.stack((line, line.square()), 1) + 0.1 * torch.randn(N, 2, generator=generator)
    turn = torch.tensor(drift * problem)
    rotation = torch.stack(
        (torch.stack((turn.cos(), -turn.sin())), torch.stack((turn.sin(), turn.cos())))
    )
    return source @ rotation.T, target @ rotation.T


class Rings:
    """Full-batch training; `asked` counts the evaluations."""

    def __init__(self) -> None:
        self.asked = []

    def problem(self, number):
        self.asked.append(number)
        return ring(number)


class Noisy(SoftPermutation):
    """An objective that uses its random numbers."""

    def __call__(self, slicer, source, target, context, generator):
        source = source + 0.05 * torch.randn(source.shape, generator=generator)
        return super().__call__(slicer, source, target, context, generator)


def build(objective=None, hidden=(8, 8), **settings):
    torch.manual_seed(0)
    settings = {
        "learning_rate": 1e-2,
        "problems": PROBLEMS,
        "iterations_each": EACH,
        "at": [0, 2, EACH],
        "evaluate_every": 3,
        "decay_every": 2,
        "decay": 0.5,
    } | settings
    objective = objective or Noisy()
    module = SequenceSlicer(SineMLP(2, list(hidden)), objective, **settings)
    module.prepare(STREAMS, {}, Rings())
    return module


def fit(module, first_step=0, last_step=None, checkpoint=None):
    steps = module.problems * module.iterations_each

    def draw(step):
        problem = step // module.iterations_each
        return *(points[None] for points in ring(problem)), problem

    return quiet_fit(
        module,
        StepBatches(draw, first_step, steps),
        steps if last_step is None else last_step,
        checkpoint,
    )


def same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(
        torch.allclose(first[name], second[name], rtol=0, atol=0, equal_nan=True)
        for name in first
        if name != "training_seconds"
    )


@pytest.mark.parametrize("stop", [3, EACH, EACH + 4])
@pytest.mark.parametrize(("warm", "keep"), [(True, "best"), (False, "last")])
def test_resumed_equals_undisturbed_bit_for_bit(warm, keep, stop, tmp_path):
    whole = build(warm=warm, keep=keep)
    fit(whole)
    first = build(warm=warm, keep=keep)
    fit(first, last_step=stop).save_checkpoint(tmp_path / "last.ckpt")
    assert not same_state(first, whole)
    torch.manual_seed(999)
    second = build(warm=warm, keep=keep)
    torch.rand(7)
    trainer = fit(second, first_step=stop, checkpoint=tmp_path / "last.ckpt")
    assert trainer.global_step == PROBLEMS * EACH
    assert same_state(second, whole)
    assert second.training_seconds > first.training_seconds > 0


@pytest.mark.parametrize("warm", [True, False])
def test_it_is_plain_adamw_once_a_problem(warm):
    """torch's AdamW and StepLR, made anew for every problem, keeping the last weights."""
    module = build(warm=warm, keep="last", weight_decay=0.3)
    fit(module)
    torch.manual_seed(3)
    slicer = SineMLP(2, [8, 8])
    for problem in range(PROBLEMS):
        source, target = ring(problem)
        if problem == 0 or not warm:
            seed = STREAMS.generator("initialisation", problem).initial_seed()
            torch.manual_seed(seed)
            slicer.reset_parameters()
        optimizer = torch.optim.AdamW(slicer.parameters(), lr=1e-2, weight_decay=0.3)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for iteration in range(EACH + 1):
            if iteration in module.iterations:
                weights = parameters_to_vector(slicer.parameters())
                kept = module.snapshots[problem, module.iterations.index(iteration)]
                # The last weight is the head's bias: it shifts all scores alike, so its gradient
                # is nothing but rounding.
                torch.testing.assert_close(kept[:-1], weights[:-1].detach(), rtol=0, atol=2e-6)
            generator = STREAMS.generator("objective", problem * EACH + iteration)
            loss = module.objective(slicer, source[None], target[None], None, generator)
            if iteration < EACH:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()


def hard_cost(matcher, problem):
    source, target = ring(problem)
    plan = matcher.match(source, target)
    ranked = source[plan.source_index] - target[plan.target_index]
    return (ranked.norm(dim=1).double() * plan.mass).sum().item()


def test_best_is_the_cheapest_so_far():
    """A learning rate far too large: costs go up and down, and the best is not the last."""
    settings = {"learning_rate": 0.5, "decay_every": 100, "evaluate_every": 1, "at": range(8)}
    module = build(SoftPermutation(), keep="best", **settings)
    fit(module)
    assert module.evaluated == module.iterations == tuple(range(EACH + 1))
    lowest = module.curve.cummin(1).values
    assert (module.curve[:, -1] > lowest[:, -1] + 1e-3).any()
    for problem in range(PROBLEMS):
        for iteration in module.iterations:
            found = hard_cost(module.after(problem, iteration), problem)
            assert found == pytest.approx(lowest[problem, iteration].item(), rel=1e-6)
    last = build(SoftPermutation(), keep="last", **settings)
    fit(last)
    for problem in range(PROBLEMS):
        for iteration in last.iterations:
            found = hard_cost(last.after(problem, iteration), problem)
            assert found == pytest.approx(last.curve[problem, iteration].item(), rel=1e-6)


def test_a_warm_start_hands_over_what_was_kept():
    for keep in ("best", "last"):
        module = build(keep=keep, learning_rate=0.3)
        fit(module)
        for problem in range(1, PROBLEMS):
            assert torch.equal(module.snapshots[problem, 0], module.snapshots[problem - 1, -1])
    assert torch.equal(module.snapshots[-1, -1], parameters_to_vector(module.slicer.parameters()))


def test_warm_beats_scratch_after_a_small_drift():
    settings = {
        "objective": SoftPermutation(),
        "hidden": (16, 16),
        "learning_rate": 2e-2,
        "iterations_each": 40,
        "at": [0, 40],
        "evaluate_every": 20,
        "decay_every": 500,
    }
    warm, scratch = build(warm=True, **settings), build(warm=False, **settings)
    for module in (warm, scratch):
        fit(module)
    assert warm.evaluated == (0, 20, 40)
    assert torch.equal(warm.curve[0], scratch.curve[0])
    assert torch.equal(warm.snapshots[0], scratch.snapshots[0])
    for problem in range(PROBLEMS):
        source, target = ring(problem)
        distance = torch.cdist(source.double(), target.double()).numpy()
        least = distance[linear_sum_assignment(distance)].mean()
        above = [module.curve[problem] - least for module in (warm, scratch)]
        assert (torch.stack(above) >= -1e-6).all()
        if problem > 0:
            assert above[0][0] < 0.5 * above[1][0]


def test_a_finished_student_answers_without_prepare():
    module = build()
    fit(module)
    torch.manual_seed(4)
    again = SequenceSlicer(
        SineMLP(2, [8, 8]), Noisy(), problems=PROBLEMS, iterations_each=EACH, at=(0, 2, EACH),
        evaluate_every=3,
    )  # fmt: skip
    again.load_state_dict(module.state_dict())
    source, target = ring(2)
    for problem, iteration in ((0, 0), (1, 2), (2, EACH)):
        students = [student.after(problem, iteration) for student in (module, again)]
        plans = [student.match(source, target) for student in students]
        assert torch.equal(*(plan.target_of_source() for plan in plans))
    last = again.match(source, target).target_of_source()
    assert torch.equal(last, plans[0].target_of_source())
    assert again.iterations == (0, 2, EACH)
    assert not any(weight.requires_grad for weight in again.after(0, 0).slicer.parameters())


def test_evaluations_change_no_weights_and_no_time():
    rare, often = build(keep="last", evaluate_every=100), build(keep="last", evaluate_every=1)
    for module in (rare, often):
        fit(module)
    assert torch.equal(rare.snapshots, often.snapshots)
    assert rare.evaluated == (0, 2, EACH)
    assert rare.data.asked == [p for p in range(PROBLEMS) for _ in range(3)]
    assert not rare.curve.isnan().any()

    class Slow(Rings):
        def problem(self, number):
            work(0.02)
            return super().problem(number)

    slow = build(keep="last", evaluate_every=1)
    slow.data = Slow()
    started = time.process_time()
    fit(slow)
    evaluations = 0.02 * PROBLEMS * (EACH + 1)
    assert 0 < slow.training_seconds < time.process_time() - started - evaluations


def test_what_was_not_reached_is_no_answer():
    module = build()
    fit(module, last_step=EACH + 1)
    source, target = ring(0)
    module.after(1, 0).match(source, target)
    with pytest.raises(ValueError, match="finite"):
        module.match(source, target)


def test_bad_settings_are_named():
    bad = {
        "learning_rate": 0.0,
        "weight_decay": -1.0,
        "problems": 0,
        "evaluate_every": 0,
        "decay_every": 0,
        "decay": 0.0,
        "keep": "first",
    }
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name):
            build(**{name: value})
    for at in ([], [0, 2], [2, 0, EACH], [-1, EACH], [0, 0, EACH]):
        with pytest.raises(ValueError, match="at must rise"):
            build(at=at)
    with pytest.raises(ValueError, match="no buffers"):
        SequenceSlicer(torch.nn.Sequential(SineMLP(2), torch.nn.BatchNorm1d(2)), Noisy())
    with pytest.raises(TypeError, match="problem"):
        build().prepare(STREAMS, {}, None)
    module = build()
    for problem, iteration, name in ((PROBLEMS, 0, "problem"), (-1, 0, "problem"), (0, 1, "iter")):
        with pytest.raises(ValueError, match=name):
            module.after(problem, iteration)


def test_a_batch_of_another_problem_stops_the_run():
    module = build()
    source, target = ring(1)
    with pytest.raises(ValueError, match="batch must be of problem 0"):
        module.training_step((source[None], target[None], 1), 0)


def test_divergence_stops_the_run():
    class Broken(SoftPermutation):
        def __call__(self, *arguments):
            return super().__call__(*arguments) * math.nan

    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        fit(build(Broken()))
