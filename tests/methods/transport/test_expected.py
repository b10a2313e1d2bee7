"""Expected sliced plans: against POT and dense formulas, and every trap on the way there."""

import numpy as np
import ot
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sextant.methods.transport.sliced import expected as module
from sextant.methods.transport.sliced import expected_forms
from sextant.methods.transport.sliced.expected import expected_sliced_mix
from sextant.methods.transport.sliced.rank_coupling import resampled
from sextant.methods.transport.sliced.ranking import HardSorting, LaplaceSorting, SoftSorting

SOFT = [SoftSorting(0.02), SoftSorting(0.05, 1), LaplaceSorting(0.05)]
HARD = HardSorting()
METRICS = {2: "sqeuclidean", 1: "euclidean"}


@pytest.fixture(autouse=True)
def scans_from_49_points_on(monkeypatch):
    """So that both forms of LapSum are met at sizes that take no time."""
    monkeypatch.setattr(expected_forms, "DENSE_UP_TO", 48)


def clouds(number=24, width=4, other=None, pairs=2, seed=0):
    torch.manual_seed(seed)
    sizes = (number, number if other is None else other)
    return [torch.randn(pairs, size, width, dtype=torch.float64) for size in sizes]


def plan(queries, keys, sorting, tau, **settings):
    """n G as a matrix: what is mixed is the unit matrix."""
    unit = torch.eye(keys.shape[1], dtype=keys.dtype).expand(len(keys), -1, -1)
    return expected_sliced_mix(
        queries, keys, unit, settings.pop("directions", None), sorting, tau, **settings
    )


def slice_plans(queries, keys, sorting):
    """A^T B of every axis, by matrices: (P, L, N, N)."""
    first, second = (
        sorting.rank(points.transpose(1, 2).contiguous(), None, True) for points in (queries, keys)
    )
    unit = torch.eye(queries.shape[1], dtype=queries.dtype).expand(len(queries), -1, -1)
    return first.to_ranks(unit).transpose(-1, -2) @ second.to_ranks(unit)


def dense(queries, keys, values, sorting, tau, power):
    """The definition, with every N x N x L tensor: output, costs."""
    plans = slice_plans(queries, keys, sorting) / queries.shape[1]
    cost = (queries[:, :, None] - keys[:, None]).square().sum(-1) ** (power / 2)
    costs = (cost[:, None] * plans).sum((-1, -2))
    weights = (-tau * costs).softmax(1)
    mixed = (weights[..., None, None] * plans).sum(1)
    return queries.shape[1] * mixed @ values, costs


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("tau", [0.0, 1.0, 40.0])
def test_hard_plans_are_those_of_pot(power, tau):
    queries, keys = clouds(16)
    found = plan(queries, keys, HARD, tau, cost_power=power).output
    for pair in range(2):
        expected = ot.expected_sliced_plan(
            queries[pair].numpy(),
            keys[pair].numpy(),
            projections=np.eye(4),
            metric=METRICS[power],
            beta=tau,
            dense=True,
        )
        np.testing.assert_allclose(found[pair] / 16, expected[0], atol=1e-14)


def test_pot_weighs_wrong_costs_at_23_points_and_we_do_not():
    """At N = 23 POT 0.9.7 takes its branch for unequal weights, whose costs are wrong; its plans
    of equally weighted slices agree."""
    queries, keys = clouds(23)
    torch.testing.assert_close(
        plan(queries, keys, HARD, 1.0).output,
        dense(queries, keys, torch.eye(23, dtype=torch.float64), HARD, 1.0, 2)[0],
    )
    expected = ot.expected_sliced_plan(
        queries[0].numpy(), keys[0].numpy(), projections=np.eye(4), beta=0.0, dense=True
    )
    np.testing.assert_allclose(plan(queries, keys, HARD, 0.0).output[0] / 23, expected[0])


def test_a_slice_is_the_exact_plan_of_its_coordinate():
    queries, keys = clouds(12, width=3)
    for axis in range(3):
        direction = torch.eye(3, dtype=torch.float64)[axis : axis + 1]
        found = plan(queries, keys, HARD, 0.0, directions=direction)
        line = [points[0, :, axis : axis + 1].numpy() for points in (queries, keys)]
        exact = ot.emd([], [], ot.dist(*line))
        np.testing.assert_allclose(found.output[0] / 12, exact, atol=1e-14)
        best = ot.emd2([], [], ot.dist(queries[0].numpy(), keys[0].numpy()))
        assert found.costs[0, 0] >= best - 1e-12


@pytest.mark.parametrize("sorting", [HARD, LaplaceSorting(0.05)])
def test_doubly_stochastic(sorting):
    """At any temperature, and as attention: rows of n G sum to 1, not to 1 / n."""
    found = plan(*clouds(40, 6), sorting, 3.0).output
    for axis in (1, 2):
        torch.testing.assert_close(found.sum(axis), torch.ones_like(found.sum(axis)))
    assert found.min() >= 0
    if sorting is HARD:
        assert (found > 0).sum(-1).max() <= 6


def test_softsort_is_doubly_stochastic_only_in_the_limit():
    queries, keys = clouds(24)
    defects = []
    for temperature in (1e-1, 1e-2, 1e-3, 1e-5, 1e-9):
        found = plan(queries, keys, SoftSorting(temperature), 1.0).output
        torch.testing.assert_close(found.sum((1, 2)), torch.full((2,), 24.0, dtype=torch.float64))
        defects.append((found.sum(1) - 1).abs().max().item())
    assert defects == sorted(defects, reverse=True)
    assert defects[0] > 1e-2
    assert defects[-1] < 1e-10


@pytest.mark.parametrize("sorting", [SoftSorting(1e-9), SoftSorting(1e-5, 1), LaplaceSorting(1e-5)])
def test_soft_becomes_hard(sorting):
    torch.manual_seed(0)
    # Coordinates that are well apart: what is nearly tied is nearly split.
    queries, keys = (torch.rand(2, 24, 4).argsort(1).double() / 24 for _ in range(2))
    found, expected = (plan(queries, keys, kind, 2.0) for kind in (sorting, HARD))
    torch.testing.assert_close(found.output, expected.output, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.costs, expected.costs)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("sorting", [*SOFT, HARD])
def test_streaming_is_the_dense_definition(sorting, power, monkeypatch):
    """For any number of slices at a time; output i mixes values of *keys*, over the second axis."""
    queries, keys = clouds(20, 5)
    values = torch.randn(2, 20, 3, dtype=torch.float64)
    output, costs = dense(queries, keys, values, sorting, 4.0, power)
    for chunk, kept in ((1, 0), (3, 0), (3, 2**21), (5, 2**21), (None, 0)):
        monkeypatch.setattr(module, "KEPT_ENTRIES", kept)
        found = expected_sliced_mix(
            queries, keys, values, None, sorting, 4.0, cost_power=power, chunk=chunk
        )
        torch.testing.assert_close(found.output, output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.costs, costs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("number", [9, 60, 150])
@pytest.mark.parametrize("sorting", [SoftSorting(0.3), SoftSorting(0.4, 1), LaplaceSorting(0.3)])
def test_gradients_are_those_of_the_dense_definition(sorting, number, power, kept, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ENTRIES", kept)
    rows = [*clouds(number, 3, pairs=1), torch.randn(1, number, 2, dtype=torch.float64)]
    weights = torch.randn(1, number, 2, dtype=torch.float64)
    found, expected = [], []
    for gradients, chunk in ((found, 2), (expected, None)):
        leaves = [row.clone().requires_grad_() for row in rows]
        if chunk is None:
            output, costs = dense(*leaves, sorting, 4.0, power)
        else:
            output, costs = expected_sliced_mix(
                *leaves, None, sorting, 4.0, cost_power=power, chunk=chunk
            )
        ((output * weights).sum() + costs.square().sum()).backward()
        gradients += [leaf.grad for leaf in leaves]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sorting", [SoftSorting(0.5), LaplaceSorting(0.5)])
def test_gradcheck(sorting, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ENTRIES", 0)
    torch.manual_seed(0)
    queries, keys = (
        (torch.randperm(5)[None, :, None] + torch.rand(1, 5, 2)).double().requires_grad_()
        for _ in range(2)
    )
    values = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *rows: expected_sliced_mix(*rows, None, sorting, 2.0, chunk=1),
        (queries, keys, values),
    )


@pytest.mark.parametrize("number", [7, 300])
@pytest.mark.parametrize("power", [1, 2])
def test_hard_gradients_go_through_the_weights_alone(number, power):
    queries, keys = clouds(number, 3, pairs=1)
    values = torch.randn(1, number, 2, dtype=torch.float64)
    for tau, moved in ((0.0, False), (3.0, True)):
        gradients = []
        for mix in (
            lambda *rows, tau=tau: (
                expected_sliced_mix(*rows, None, HARD, tau, cost_power=power).output
            ),
            lambda *rows, tau=tau: dense(*rows, HARD, tau, power)[0],
        ):
            leaves = [row.clone().requires_grad_() for row in (queries, keys, values)]
            mix(*leaves).square().sum().backward()
            assert (leaves[0].grad.abs().sum() > 1e-9) == moved
            gradients.append([leaf.grad for leaf in leaves])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("sorting", [*SOFT, HARD])
def test_gradients_are_finite_where_points_coincide(sorting, power):
    queries = clouds(8)[0].requires_grad_()
    keys = queries.detach().clone().requires_grad_()
    expected_sliced_mix(
        queries, keys, queries.detach(), None, sorting, 2.0, cost_power=power
    ).output.square().sum().backward()
    assert queries.grad.isfinite().all()
    assert keys.grad.isfinite().all()


def test_the_same_points_match_themselves():
    queries, _ = clouds(17)
    for tau in (0.0, 5.0):
        unit = torch.eye(17, dtype=torch.float64).expand(2, -1, -1)
        torch.testing.assert_close(plan(queries, queries, HARD, tau).output, unit)


def test_temperatures_of_the_weights():
    queries, keys = clouds(20)
    costs = plan(queries, keys, HARD, 0.0).costs
    plans = slice_plans(queries, keys, HARD)
    torch.testing.assert_close(plan(queries, keys, HARD, 0.0).output, plans.mean(1))
    cheapest = plans[torch.arange(2), costs.argmin(1)]
    torch.testing.assert_close(plan(queries, keys, HARD, 1e9).output, cheapest)


@pytest.mark.parametrize("sorting", [*SOFT, HARD])
def test_invariances(sorting):
    queries, keys = clouds(20, 5)
    found = plan(queries, keys, sorting, 4.0).output
    order = torch.randperm(20)
    moved = plan(queries[:, order], keys[:, order], sorting, 4.0).output
    torch.testing.assert_close(moved, found[:, order][:, :, order])
    torch.testing.assert_close(plan(keys, queries, sorting, 4.0).output, found.transpose(1, 2))
    axes = torch.randperm(5)
    torch.testing.assert_close(
        plan(queries[..., axes], keys[..., axes], sorting, 4.0).output, found
    )
    if not isinstance(sorting, SoftSorting):
        # Squared distances then change by the same for every slice.
        shifted = plan(queries + 3.0, keys - torch.randn(5).double(), sorting, 4.0).output
        torch.testing.assert_close(shifted, found)


def test_without_costs_only_orders_count():
    queries, keys = clouds(20)
    found = plan(queries, keys, HARD, 0.0).output
    torch.testing.assert_close(plan(queries.exp(), keys**3, HARD, 0.0).output, found)


def test_ties_are_ranked_as_they_stand_and_softly_split():
    """The largest entry of each SoftSort row is no permutation where scores are tied."""
    queries = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 4, 1)
    keys = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 4, 1)
    hard = plan(queries, keys, HARD, 1.0).output[0]
    assert hard.sum(0).tolist() == hard.sum(1).tolist() == [1.0] * 4
    assert hard[0].argmax() == 1
    assert hard[2].argmax() == 3
    straight = SoftSorting(1e-3).rank(queries.transpose(1, 2), None, True).matrices[0, 0].argmax(-1)
    assert straight.unique().numel() < 4
    for sorting in (SoftSorting(1e-6), LaplaceSorting(1e-4)):
        split = plan(queries, keys, sorting, 1.0).output[0]
        torch.testing.assert_close(split[:3, 1:], torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("sorting", [*SOFT, LaplaceSorting(1e-6), SoftSorting(1e-3), HARD])
@pytest.mark.parametrize("number", [12, 70])
def test_masks_are_like_deleting(sorting, power, number):
    queries, keys = clouds(number, 3)
    values = torch.randn(2, number, 2, dtype=torch.float64)
    mask = torch.rand(2, number) < 0.5
    mask[:, 1] = True
    mask[1] = False
    mask[1, 4] = True
    # float32, in which a padding value of 1e18 would overflow once squared; 1e4 must not matter.
    rows = [row.float().masked_fill(~mask[..., None], 1e4) for row in (queries, keys, values)]
    rows = [row.requires_grad_() for row in rows]
    found = expected_sliced_mix(
        *rows, None, sorting, 2.0, query_mask=mask, key_mask=mask, cost_power=power
    )
    for pair in range(2):
        kept = mask[pair]
        alone = (row[pair : pair + 1, kept].float() for row in (queries, keys, values))
        expected = expected_sliced_mix(*alone, None, sorting, 2.0, cost_power=power)
        torch.testing.assert_close(
            found.output[pair, kept], expected.output[0], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(found.costs[pair], expected.costs[0], rtol=1e-4, atol=1e-5)
    assert (found.output[~mask] == 0).all()
    found.output.square().sum().backward()
    for row in rows:
        assert row.grad.isfinite().all()
        assert (row.grad[~mask] == 0).all()


def test_a_mask_is_true_for_real_points():
    """The other polarity, as in the released sentiment model, leaves a uniform plan over the real
    points and no gradient in queries and keys."""
    queries, keys = clouds(10)
    mask = (torch.arange(10) < 6).expand(2, -1)
    found = plan(queries, keys, HARD, 1.0, query_mask=mask, key_mask=mask).output
    assert (found[:, :6, :6].sum(-1) - 1).abs().max() < 1e-12
    assert (found[:, 6:] == 0).all()
    assert (found[:, :, 6:] == 0).all()
    assert found[:, :6, :6].var() > 1e-2


@pytest.mark.parametrize("sizes", [(5, 8), (8, 5), (16, 100), (1, 7), (7, 1), (6, 6)])
@pytest.mark.parametrize("sorting", [SoftSorting(1e-9), LaplaceSorting(1e-6), HARD])
def test_unequal_sizes_couple_exactly(sorting, sizes):
    queries, keys = clouds(sizes[0], 2, sizes[1])
    found = plan(queries, keys, sorting, 0.0, directions=torch.eye(2).double()[:1]).output
    exact = ot.emd([], [], ot.dist(queries[0, :, :1].numpy(), keys[0, :, :1].numpy()))
    np.testing.assert_allclose(found[0] / sizes[0], exact, atol=1e-9)


def test_unequal_sizes_under_a_mask():
    queries, keys = clouds(6, 3, 11)
    mask = torch.rand(2, 11) < 0.6
    mask[:, 0] = True
    for sorting in (SoftSorting(0.1), LaplaceSorting(0.1), HARD):
        found = plan(queries, keys, sorting, 2.0, key_mask=mask).output
        for pair in range(2):
            alone = plan(queries[[pair]], keys[[pair]][:, mask[pair]], sorting, 2.0).output[0]
            torch.testing.assert_close(found[pair][:, mask[pair]], alone)
            assert (found[pair][:, ~mask[pair]] == 0).all()


def test_interpolation_is_no_coupling():
    """The released code's resampling: rows sum to 1, columns range as measured there."""
    for rows, columns, low, high in ((5, 8, 0.25, 1.0), (8, 5, 1.43, 1.71)):
        counts = torch.tensor([rows]), torch.tensor([columns])
        unit = torch.eye(columns)[None, None]
        matrix = resampled(unit, *counts, rows, "interp")[0, 0]
        torch.testing.assert_close(matrix.sum(1), torch.ones(rows))
        found = matrix.sum(0)
        assert (found.min().item(), found.max().item()) == pytest.approx((low, high), abs=5e-3)
        exact = resampled(unit, *counts, rows, "exact")[0, 0]
        torch.testing.assert_close(exact.sum(0), torch.full((columns,), rows / columns))
        torch.testing.assert_close(exact.sum(1), torch.ones(rows))
    same = resampled(torch.eye(6)[None, None], torch.tensor([6]), torch.tensor([6]), 6, "interp")
    torch.testing.assert_close(same[0, 0], torch.eye(6))


def test_shares_of_directions_in_the_toy():
    """Figure 2 of the paper: which order of the keys how many directions give, to half a point."""
    queries = torch.tensor([[0.93, 0.58], [0.097, 0.005], [0.575, 0.715]]).double()
    keys = torch.tensor([[1.175, 0.90], [1.305, 1.455], [0.96, 0.31]]).double()
    angles = torch.arange(20000).double() * (2 * torch.pi / 20000)
    directions = torch.stack((angles.cos(), angles.sin()), 1)
    shares, costs = {}, {}
    for direction in directions:
        first, second = ((points @ direction).argsort() for points in (queries, keys))
        order = torch.empty(3, dtype=torch.int64)
        order[first] = second
        name = tuple((order + 1).tolist())
        shares[name] = shares.get(name, 0) + 100 / 20000
        costs[name] = (queries - keys[order]).square().sum()
    printed = {(1, 2, 3): 2.0, (1, 3, 2): 32.7, (2, 3, 1): 45.8, (3, 1, 2): 11.8, (3, 2, 1): 7.7}
    assert shares == pytest.approx(printed, abs=0.5)
    # Our plan at tau = 0 is the average over these orders, and at the limit the cheapest.
    found = plan(queries[None], keys[None], HARD, 0.0, directions=directions).output[0]
    for (one, two, three), share in shares.items():
        for query, key in enumerate((one, two, three)):
            found[query, key - 1] -= share / 100
    assert found.abs().max() < 1e-9
    assert min(costs, key=costs.get) == (1, 3, 2)
    cheapest = plan(queries[None], keys[None], HARD, 1e6, directions=directions).output[0]
    torch.testing.assert_close(cheapest, torch.eye(3).double()[[0, 2, 1]])


def test_costs_are_means_and_the_code_sums_them():
    """tau in the paper's units is N times the released code's temperature."""
    queries, keys = clouds(20)
    sums = (queries[:, :, None] - keys[:, None]).norm(dim=-1)
    plans = slice_plans(queries, keys, HARD)
    code = (-0.7 * (sums[:, None] * plans).sum((-1, -2))).softmax(1)
    expected = (code[..., None, None] * plans).sum(1)
    found = plan(queries, keys, HARD, 20 * 0.7, cost_power=1).output
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(plan(queries, keys, HARD, 0.7, cost_power=1).output, expected)


def kept_bytes(call):
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    sizes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return sizes


@pytest.mark.parametrize("sorting", [SoftSorting(1e-2), LaplaceSorting(0.1)])
def test_no_slice_is_kept_for_the_backward_pass(sorting, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ENTRIES", 0)
    torch.manual_seed(0)
    rows = [torch.randn(1, 100, 32, requires_grad=True) for _ in range(3)]
    streamed = kept_bytes(lambda: expected_sliced_mix(*rows, None, sorting, 1.0, chunk=8).output)
    naive = kept_bytes(lambda: dense(*rows, sorting, 1.0, 2)[0])
    assert streamed <= naive * 8 / 32


def test_unknown_words_are_refused():
    queries, keys = clouds(5)
    with pytest.raises(ValueError, match="cost_power must be 1 or 2, got 3"):
        plan(queries, keys, HARD, 1.0, cost_power=3)
    with pytest.raises(ValueError, match="coupling must be 'exact' or 'interp'"):
        plan(queries, keys, HARD, 1.0, coupling="linear")
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SoftSorting(0)
    with pytest.raises(ValueError, match="power must be 1 or 2, got 3"):
        SoftSorting(1e-3, 3)
