"""Lifted plans against POT's one-dimensional plans and a plain rule for ties."""

import math
from time import perf_counter

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.transport.sliced.lifted import descending_order, lifted_plan

SIZES = [(1, 1), (1, 5), (7, 7), (6, 3), (7, 4), (40, 25)]


def draw(n: int, seed: int, ties: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, generator=generator, dtype=torch.float64)
    return scores.round() if ties else scores


def weights(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=generator, dtype=torch.float64) + 0.01


def pot_plan(x, y, a=None, b=None) -> torch.Tensor:
    a, b = (None if w is None else (w / w.sum()).numpy() for w in (a, b))
    return torch.from_numpy(ot.emd_1d(x.numpy(), y.numpy(), a, b))


@pytest.mark.parametrize("ties", ["arbitrary", "split"])
@pytest.mark.parametrize("weighted", ["no", "source", "both"])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_plan_equals_pot_has_exact_marginals_and_few_entries(n, m, weighted, ties):
    x, y = draw(n, 1), draw(m, 2)
    a = weights(n, 3) if weighted != "no" else None
    b = weights(m, 4) if weighted == "both" else None
    plan = lifted_plan(x, y, a, b, ties)
    assert plan.mass.dtype == torch.float64
    torch.testing.assert_close(plan.dense(), pot_plan(x, y, a, b), rtol=0, atol=3e-15)
    assert len(plan.mass) <= n + m - (math.gcd(n, m) if weighted == "no" else 1)
    assert (plan.mass > 0).all()
    rows, columns = plan.marginals()
    expected = torch.full_like(x, 1 / n) if a is None else a / a.sum()
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-15)
    expected = torch.full_like(y, 1 / m) if b is None else b / b.sum()
    torch.testing.assert_close(columns, expected, rtol=0, atol=1e-15)


def test_equal_sizes_give_a_bijection_of_equal_ranks():
    plan = lifted_plan(torch.tensor([0.1, 3.0, -2.0]), torch.tensor([5.0, 7.0, 6.0]))
    assert plan.source_index.tolist() == [1, 0, 2]  # from the highest score on
    assert plan.target_of_source().tolist() == [2, 1, 0]


def test_a_multiple_gives_whole_entries_without_splinters():
    x, y = draw(99, 0), draw(33, 1)
    plan = lifted_plan(x, y)
    assert len(plan.mass) == 99
    assert (plan.source_index.bincount() == 1).all()
    assert (plan.target_index.bincount() == 3).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_increasing_maps_flips_and_reorderings(n, m, seed, weighted):
    x, y = draw(n, seed), draw(m, seed + 1)
    a, b = (weights(n, seed), weights(m, seed + 1)) if weighted else (None, None)
    dense = lifted_plan(x, y, a, b).dense()
    for increasing in (lambda s: 3 * s - 1, torch.sinh):
        assert torch.equal(lifted_plan(increasing(x), increasing(y), a, b).dense(), dense)
    flipped = lifted_plan(-x, -y, a, b).dense()
    torch.testing.assert_close(flipped, dense, rtol=0, atol=1e-15)
    back = lifted_plan(y, x, b, a).dense()
    torch.testing.assert_close(back, dense.t(), rtol=0, atol=1e-15)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moved = lifted_plan(x[order], y, None if a is None else a[order], b).dense()
    torch.testing.assert_close(moved, dense[order], rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000), st.booleans())
def test_split_ties_follow_the_formula_entry_by_entry(n, m, seed, weighted):
    x, y = draw(n, seed, ties=True), draw(m, seed + 1, ties=True)
    a, b = (weights(n, seed), weights(m, seed + 1)) if weighted else (None, None)
    plan = lifted_plan(x, y, a, b, ties="split")
    mass_a = torch.full((n,), 1 / n).double() if a is None else a / a.sum()
    mass_b = torch.full((m,), 1 / m).double() if b is None else b / b.sum()
    values_x, block_x = x.unique(return_inverse=True)
    values_y, block_y = y.unique(return_inverse=True)
    total_x = torch.stack([mass_a[block_x == k].sum() for k in range(len(values_x))])
    total_y = torch.stack([mass_b[block_y == k].sum() for k in range(len(values_y))])
    between = pot_plan(values_x, values_y, total_x, total_y)
    expected = torch.empty(n, m, dtype=torch.float64)
    for i in range(n):
        for j in range(m):
            p, q = block_x[i], block_y[j]
            share = mass_a[i] * mass_b[j] / (total_x[p] * total_y[q])
            expected[i, j] = share * between[p, q]
    torch.testing.assert_close(plan.dense(), expected, rtol=0, atol=1e-14)


def test_arbitrary_ties_keep_the_order_points_stand_in():
    plan = lifted_plan(torch.zeros(5), torch.zeros(5))
    assert plan.target_of_source().tolist() == [0, 1, 2, 3, 4]
    even = lifted_plan(torch.zeros(3), torch.zeros(2), ties="split")
    torch.testing.assert_close(even.dense(), torch.full((3, 2), 1 / 6, dtype=torch.float64))


def test_weights_may_have_zeros_and_any_scale():
    x, y = draw(4, 0), draw(3, 1)
    a = torch.tensor([0.0, 2.0, 0.0, 6.0])
    for ties in ("arbitrary", "split"):
        plan = lifted_plan(x, y, a, None, ties)
        assert set(plan.source_index.tolist()) == {1, 3}
        rows, _ = plan.marginals()
        torch.testing.assert_close(rows, a.double() / 8, rtol=0, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", ["normal", "ties", "zeros", "extremes"])
def test_order_is_that_of_a_stable_descending_sort(dtype, law):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 500, generator=generator, dtype=dtype)
    if law == "ties":
        scores = scores.round()
    if law == "zeros":
        scores = torch.where(scores > 0, 0.0, -0.0).to(dtype)
    if law == "extremes":
        tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
        scores[:, :6] = torch.tensor([tiny, -tiny, huge, -huge, tiny / 4, -tiny / 4], dtype=dtype)
    kept = scores.clone()
    order = descending_order(scores)
    reference = np.stack([sorted(range(500), key=lambda k: -row[k]) for row in scores.tolist()])
    assert torch.equal(order, torch.from_numpy(reference))
    assert torch.equal(scores, kept)


def test_scores_with_a_gradient_and_half_precision_are_taken():
    x, y = draw(6, 0).requires_grad_(), draw(6, 1)
    assert lifted_plan(x, y).is_bijection
    assert not lifted_plan(x, y).mass.requires_grad
    assert lifted_plan(x.half(), y.half()).is_bijection


def test_a_million_points_take_seconds():
    generator = torch.Generator().manual_seed(0)
    x, y, a = (torch.rand(10**6, generator=generator) for _ in range(3))
    start = perf_counter()
    plain, weighted = lifted_plan(x, y), lifted_plan(x, y, a)
    assert perf_counter() - start < 20
    assert (x[plain.source_index].diff() <= 0).all()
    assert (y[plain.target_index].diff() <= 0).all()
    assert weighted.mass.sum().item() == pytest.approx(1, abs=1e-9)
    rows, columns = weighted.marginals()
    # Levels are sums of a million numbers; relative to a weight that is 1e-9.
    torch.testing.assert_close(rows, a.double() / a.double().sum(), rtol=0, atol=1e-14)
    torch.testing.assert_close(columns, torch.full_like(columns, 1e-6), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"source_scores": torch.tensor([1, 2])}, TypeError, "source_scores"),
        ({"source_scores": torch.zeros(2, 2)}, ValueError, "source_scores must be a vector"),
        ({"target_scores": torch.zeros(0)}, ValueError, "target_scores must be a vector"),
        ({"target_scores": torch.tensor([0.0, torch.nan])}, ValueError, "target_scores has NaN"),
        ({"source_weights": torch.ones(3)}, ValueError, r"source_weights must have shape \(2,\)"),
        ({"source_weights": torch.tensor([1.0, -1.0])}, ValueError, "source_weights must be fin"),
        ({"source_weights": torch.tensor([1.0, torch.nan])}, ValueError, "source_weights must be"),
        ({"target_weights": torch.zeros(2)}, ValueError, "target_weights must be finite"),
        ({"target_weights": torch.tensor([1.0, torch.inf])}, ValueError, "target_weights must be"),
        ({"target_weights": torch.tensor([1, 1])}, TypeError, "target_weights"),
        ({"ties": "random"}, ValueError, "'arbitrary' or 'split', got 'random'"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        lifted_plan(
            **{"source_scores": torch.zeros(2), "target_scores": torch.ones(2), **arguments}
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ties", ["arbitrary", "split"])
def test_gpu_plan_equals_cpu_plan(ties):
    x, y, a = draw(300, 0), draw(200, 1), weights(300, 2)
    for source_weights in (None, a):
        here = lifted_plan(x, y, source_weights, ties=ties)
        on_gpu = None if source_weights is None else source_weights.cuda()
        there = lifted_plan(x.cuda(), y.cuda(), on_gpu, ties=ties)
        assert there.mass.is_cuda
        torch.testing.assert_close(there.dense().cpu(), here.dense(), rtol=0, atol=1e-14)
