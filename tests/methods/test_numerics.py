"""The caller's context changes no result: half precision, autocast, gradients, modes, scale."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from sextant.contracts import Streams
from sextant.methods.flow.closed_form import independent_velocity, optimal_velocity
from sextant.methods.flow.mean_flow import squared_error
from sextant.methods.flow.objectives import FlowMatching, MeanFlow
from sextant.methods.flow.sampling import sample
from sextant.methods.transport.couplings import Exact, LinearOT, Sinkhorn
from sextant.methods.transport.exact import assign, exact_pairs
from sextant.methods.transport.ground import ground_cost, paired_cost
from sextant.methods.transport.sinkhorn import sample_pairs, sinkhorn_plan
from sextant.methods.transport.sliced.couplings import LearnedSlicePairs, MinSlicedPairs
from sextant.methods.transport.sliced.direction_search import (
    annealed_min_sliced,
    smooth_min_sliced,
    smooth_sliced_loss,
)
from sextant.methods.transport.sliced.directions import (
    expected_sliced,
    min_sliced,
    random_directions,
    sliced_costs,
)
from sextant.methods.transport.sliced.fitting import fit_slicer, min_sliced_plan
from sextant.methods.transport.sliced.laplace import thresholds
from sextant.methods.transport.sliced.losses import (
    dense_coupling,
    hard_cost,
    soft_sort,
    standardized,
    two_pass_loss,
)
from sextant.methods.transport.sliced.matchers import (
    ExactMatching,
    SinkhornMatching,
    round_to_marginals,
)
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.per_pair import PerPairSlicer
from sextant.methods.transport.sliced.slicers import SineMLP, hard_plan
from sextant.methods.transport.sliced.soft_permutation import (
    apply_soft_permutation,
    soft_permutation,
)

POINTS = 48


def cloud(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers that half precision holds exactly, so that widening them loses nothing."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*(shape or (POINTS, 3)), generator=generator)).half().float()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


class Velocity(nn.Module):
    """A small network of the kind that flows train."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(5, 3)

    def forward(self, z, t, h, labels=None):
        return torch.sin(self.layer(torch.cat((z, t[:, None], h[:, None]), 1)))


class Laws:
    """A data module that draws from two laws."""

    def draw_source(self, n, generator):
        return torch.randn(n, 3, generator=generator)

    def draw_target(self, n, generator, labels=None):
        return torch.rand(n, 3, generator=generator) * 4


def learned() -> LearnedSlicePairs:
    coupling = LearnedSlicePairs(SineMLP(3, (8,)), SoftPermutation("sqeuclidean"), 3, 16)
    coupling.prepare(Laws(), Streams(0))
    return coupling


def linear() -> LinearOT:
    coupling = LinearOT(POINTS)
    coupling.prepare(Laws(), Streams(0))
    return coupling


def slicer() -> SineMLP:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SineMLP(3, (8, 8))


def gradients(loss, *inputs):
    inputs = [one.detach().requires_grad_() for one in inputs]
    value = loss(*inputs)
    return [value, *torch.autograd.grad(value.double().square().sum(), inputs)]


def plan_of(plan):
    return plan.source_index, plan.target_index, plan.mass


def per_pair(x, y):
    student = PerPairSlicer(slicer(), SoftPermutation(), iterations=2)
    student.prepare(Streams(1), {}, None)
    return plan_of(student.match(x, y))


BANK = random_directions(20, 3, generator())
T = torch.linspace(0.05, 0.95, POINTS).half().float()

FUNCTIONS = {
    "ground_cost": lambda x, y: [ground_cost(x, y, "euclidean"), paired_cost(x, y, "sqeuclidean")],
    "wide ground_cost": lambda x, y: [ground_cost(x.repeat(1, 7), y.repeat(1, 7), "sqeuclidean")],
    "sinkhorn_plan": lambda x, y: [sinkhorn_plan(x.abs(), 0.1, 50)],
    "sample_pairs": lambda x, y: [sample_pairs(x.abs(), generator())],
    "round_to_marginals": lambda x, y: [round_to_marginals(x.abs() / 64)],
    "assign": lambda x, y: [
        assign(x @ y.T if x.dtype == torch.float32 else x.float() @ y.T.float())
    ],
    "Exact": lambda x, y: Exact()(x, y, generator()),
    "LinearOT": lambda x, y: linear()(x, y, generator()),
    "Sinkhorn": lambda x, y: [Sinkhorn().plan(x, y), *Sinkhorn()(x, y, generator())],
    "MinSlicedPairs": lambda x, y: MinSlicedPairs(directions=20)(x, y, generator()),
    "LearnedSlicePairs": lambda x, y: learned()(x, y, generator()),
    "min_sliced": lambda x, y: [*plan_of(min_sliced(x, y, BANK, "euclidean").plan)],
    "min_sliced cost": lambda x, y: [min_sliced(x, y[:32], BANK, "sqeuclidean").cost],
    "sliced_costs": lambda x, y: [sliced_costs(x, y, BANK, "sqeuclidean")],
    "expected_sliced": lambda x, y: plan_of(expected_sliced(x, y, BANK, "euclidean", 2.0)),
    "smooth_sliced_loss": lambda x, y: [smooth_sliced_loss(x, y, BANK[0].float())],
    "smooth_min_sliced": lambda x, y: [smooth_min_sliced(x, y, generator(), steps=3).curve],
    "annealed_min_sliced": lambda x, y: [annealed_min_sliced(x, y, generator(), steps=3).curve],
    "ExactMatching": lambda x, y: plan_of(ExactMatching().match(x, y)),
    "SinkhornMatching": lambda x, y: plan_of(SinkhornMatching("sqeuclidean").match(x, y)),
    "hard_plan": lambda x, y: plan_of(hard_plan(slicer(), x, y)),
    "plan cost": lambda x, y: [
        hard_plan(slicer(), x, y).cost(x, y, "sqeuclidean"),
        hard_plan(slicer(), x, y).barycentric(y),
        hard_plan(slicer(), x, y).interpolate(x, y, 0.3),
    ],
    "fit_slicer": lambda x, y: [torch.tensor(fit_slicer(x, y, slicer(), iterations=3).curve)],
    "min_sliced_plan": lambda x, y: [
        torch.tensor(min_sliced_plan(x, y, slicer(), iterations=3, progress=False).cost)
    ],
    "PerPairSlicer": per_pair,
    "thresholds": lambda x, y: [thresholds(x.T, 0.5)],
    "soft_permutation": lambda x, y: gradients(
        lambda scores: soft_permutation(scores, 0.5).float(), x.T.float()
    ),
    "apply_soft_permutation": lambda x, y: [
        apply_soft_permutation(x.T, y.T[..., None].repeat(1, 1, 2).to(torch.float64), 0.5)
    ],
    "hard_cost": lambda x, y: [hard_cost(x.T, y.T, x.T[..., None], y.T[..., None], "euclidean")],
    "standardized": lambda x, y: standardized(x.T, y.T),
    "soft_sort": lambda x, y: [soft_sort(x.T, 0.3)],
    "dense_coupling": lambda x, y: [dense_coupling(x.T, y.T, 0.1, both_soft=True)],
    "two_pass_loss": lambda x, y: [
        two_pass_loss(x.T, y.T, x[None].repeat(3, 1, 1), y[None].repeat(3, 1, 1), cost)
        for cost in ("euclidean", "sqeuclidean")
    ],
    "two_pass_loss, softsort": lambda x, y: [
        two_pass_loss(x[:, :1].T, y[:, :1].T, x[None], y[None], both_soft=True, sort="softsort")
    ],
    "FlowMatching": lambda x, y: FlowMatching()(Velocity(), x, y, None, generator()),
    "MeanFlow": lambda x, y: MeanFlow()(Velocity(), x, y, None, generator()),
    "sample": lambda x, y: [sample(lambda z, t, h, labels: z * 0.3, x, 3)],
    "squared_error": lambda x, y: [squared_error(x, y)],
    "closed forms": lambda x, y: [
        independent_velocity(x, T.to(x.dtype), 0.3, 0.7),
        optimal_velocity(x, T.to(x.dtype), 0.3, 0.7),
    ],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_widened_first(name):
    """The points of a half-precision cloud give what the same points give in float32."""
    x, y = cloud(1), cloud(2)
    wanted, found = FUNCTIONS[name](x, y), FUNCTIONS[name](x.half(), y.half())
    for one, other in zip(found, wanted, strict=True):
        assert other.dtype not in (torch.float16, torch.bfloat16)
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"FlowMatching"}))
def test_results_do_not_depend_on_autocast(name):
    """What networks compute under autocast is the user's choice; here all is our own maths."""
    x, y = cloud(1), cloud(2)
    wanted = FUNCTIONS[name](x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = FUNCTIONS[name](x, y)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["smooth_min_sliced", "min_sliced_plan", "PerPairSlicer"])
def test_what_trains_does_so_where_the_caller_has_no_gradients(name, context):
    x, y, function = cloud(1), cloud(2), FUNCTIONS[name]
    wanted = function(x, y)
    with context():
        found = function(cloud(1), cloud(2))  # made in there, as the weights are
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_half_precision_networks_are_refused_by_name():
    x, y, network = cloud(1), cloud(2), Velocity().half()
    for objective in (FlowMatching(), MeanFlow()):
        with pytest.raises(TypeError, match=r"network must have weights in float32"):
            objective(network, x, y, None, generator())
    with pytest.raises(TypeError, match=r"velocity must have weights in float32"):
        sample(network, x, 2)
    with pytest.raises(TypeError, match=r"slicer must have weights in float32"):
        fit_slicer(x, y, slicer().half(), iterations=1)


def test_a_slicer_is_trained_in_place_unless_it_cannot_be():
    user, x, y = slicer(), cloud(1), cloud(2)
    wanted = fit_slicer(x, y, slicer(), iterations=3)
    with torch.inference_mode():
        assert fit_slicer(x * 1.0, y * 1.0, user, iterations=3) == wanted
        with pytest.raises(TypeError, match=r"slicer must be made outside of torch.inference_mode"):
            fit_slicer(x, y, slicer(), iterations=1)


@pytest.mark.parametrize("name", ["mlp", "linear", "set_transformer"])
def test_the_global_generator_stays_where_it_was(name):
    before = torch.random.get_rng_state()
    min_sliced_plan(cloud(1), cloud(2), name, iterations=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


class WithNorm(nn.Module):
    """A user's slicer with a batch normalisation that is frozen."""

    dimension = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3).eval(), nn.Linear(3, 1)

    def forward(self, points, context=None):
        normal = self.norm(points.flatten(0, -2)).view(points.shape)
        return self.head(normal).squeeze(-1)


def test_a_frozen_norm_stays_frozen():
    user = WithNorm()
    hard_plan(user, cloud(1), cloud(2))
    fit_slicer(cloud(1), cloud(2), user, iterations=2)
    assert user.training
    assert not user.norm.training
    assert torch.equal(user.norm.running_mean, torch.zeros(3))
    min_sliced_plan(cloud(1), cloud(2), user, iterations=2, progress=False)
    assert user.training
    assert not user.norm.training


SCALES = [1.7e-27, 1e-24, 1e18, 1e30]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_free_couplings_give_the_pairs_of_the_clouds_at_unit_scale(scale, dtype):
    x, y = cloud(1).to(dtype), cloud(2).to(dtype)
    by = 2.0 ** round(np.log2(scale))  # a power of two changes no digit
    for coupling in (Exact(), linear(), Sinkhorn(), MinSlicedPairs(directions=20)):
        if isinstance(coupling, LinearOT):
            coupling._points = coupling._points * by
        found = coupling(x * by, y * by, generator())
        if isinstance(coupling, LinearOT):
            coupling._points = coupling._points / by
        assert torch.equal(found.target_index, coupling(x, y, generator()).target_index)
    plain, scaled = Sinkhorn().plan(x, y), Sinkhorn().plan(x * by, y * by)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-9)
    assert plain.max() > 5 / POINTS**2  # far from the uniform plan
    for cost in ("euclidean", "sqeuclidean"):
        matched = SinkhornMatching(cost).match(x * by, y * by).dense()
        wanted = SinkhornMatching(cost).match(x, y).dense()
        torch.testing.assert_close(matched, wanted, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-24, 1e18, 1e200, 1e-200])
def test_standard_deviations_and_units_are_those_of_the_scaled_clouds(scale):
    x, y = cloud(1).double(), cloud(2).double()
    for one, other in zip(
        standardized(x.T * scale, y.T * scale), standardized(x.T, y.T), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    settings = {"iterations": 0, "progress": False}
    plain, scaled = (min_sliced_plan(x * s, y * s, slicer(), **settings) for s in (1.0, scale))
    assert torch.equal(plain.plan.target_index, scaled.plan.target_index)
    torch.testing.assert_close(scaled.slicer.scale / scale, plain.slicer.scale, rtol=1e-12, atol=0)


def test_costs_of_half_precision_clouds_far_apart_are_numbers():
    x, y = cloud(1, 200, 2, scale=100.0), cloud(2, 200, 2, scale=100.0) + 50
    found = min_sliced_plan(x.half(), y.half(), "linear", iterations=5, progress=False)
    wide = min_sliced_plan(x.double(), y.half().double(), "linear", iterations=5, progress=False)
    assert found.cost == pytest.approx(wide.cost, rel=1e-3)


def test_a_cost_beyond_float32_is_a_number_of_float64():
    x, y = cloud(1) * 1e24, cloud(2) * 1e24
    plan = min_sliced(x, y, BANK, "sqeuclidean").plan
    wanted = min_sliced(cloud(1), cloud(2), BANK, "sqeuclidean").cost.double() * 1e48
    torch.testing.assert_close(plan.cost(x, y, "sqeuclidean"), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("apart", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("points", [20, 200])
def test_two_far_clusters_are_matched_at_the_least_cost(apart, points):
    """The matrix product rounds every cost by the distance of the clusters."""
    draw = np.random.default_rng(points)
    place = np.repeat([[0.0, 0.0], [apart, apart]], points // 2, axis=0)
    x = place + 1e-3 * draw.standard_normal((points, 2))
    y = place + 1e-3 * draw.standard_normal((points, 2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    wanted = cost[linear_sum_assignment(cost)].sum()
    pairs = exact_pairs(torch.from_numpy(x), torch.from_numpy(y))
    assert cost[pairs.source_index, pairs.target_index].sum() <= wanted * (1 + 1e-6)


@pytest.mark.parametrize("points", [100, 160, 300])
@pytest.mark.parametrize("big", [1e6, 1e12, 1e18, 1e300])
def test_forbidden_pairs_do_not_drown_the_others(points, big):
    draw = np.random.default_rng(points)
    cost = draw.uniform(size=(points, points))
    forbidden = draw.uniform(size=cost.shape) < 0.5
    np.fill_diagonal(forbidden, False)
    cost[forbidden] = big
    wanted = cost[linear_sum_assignment(np.where(forbidden, 1e4, cost))].sum()
    found = cost[np.arange(points), assign(torch.from_numpy(cost)).numpy()].sum()
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("scale", "temperature"), [(1e300, 1e-300), (1.7e308, 1e-3), (1.0, 1e-308)]
)
def test_soft_permutations_are_hard_where_the_quotient_is_no_number(scale, temperature):
    scores = torch.tensor([0.25, -0.9, 0.7, 0.7, -0.1], dtype=torch.float64) * scale
    found = soft_permutation(scores, temperature)
    apart = torch.tensor([0.25, -0.9, 0.7, 0.7, -0.1], dtype=torch.float64)
    torch.testing.assert_close(found, soft_permutation(apart, 1e-6), rtol=0, atol=1e-12)
    with pytest.raises(OverflowError, match="temperature"):
        thresholds(scores, temperature / 10)


def test_scores_that_are_no_numbers_give_none():
    assert soft_permutation(torch.tensor([0.0, torch.nan, 1.0]), 0.5).isnan().any()


def test_modes_and_weights_are_the_users_after_a_failure():
    user = WithNorm()
    state = copy.deepcopy(user.state_dict())
    with pytest.raises(RuntimeError):
        hard_plan(user, cloud(1, 5, 3), cloud(2, 5, 4))
    assert user.training
    assert not user.norm.training
    assert all(torch.equal(one, state[name]) for name, one in user.state_dict().items())
