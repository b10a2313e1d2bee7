"""Soft permutations against root finding, brute-force sums and the matrix itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from sextant.methods.transport.sliced import soft_permutation as module
from sextant.methods.transport.sliced.laplace import laplace_sides, laplace_sums, thresholds
from sextant.methods.transport.sliced.soft_permutation import (
    apply_soft_permutation,
    soft_permutation,
)

SCALES = [1e-4, 1.0, 1e3, 1e6]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def laplace_function(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0, 0.5 * np.exp(np.minimum(x, 0)), 1 - 0.5 * np.exp(-np.maximum(x, 0)))


def roots(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Thresholds of scores (n,) by bracketing, one at a time."""
    n = len(scores)
    low, high = scores.min() - 50 * temperature, scores.max() + 50 * temperature

    def excess(b: float, k: int) -> float:
        return laplace_function((scores - b) / temperature).sum() - k

    tight = 4 * np.finfo(float).eps
    found = [brentq(excess, low, high, (k,), xtol=1e-300, rtol=tight) for k in range(1, n)]
    return np.array(found)


def by_roots(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The soft permutation (n, n) of scores (n,), straight from its definition."""
    n = len(scores)
    edges = roots(scores, temperature)
    inner = laplace_function((scores - edges[:, None]) / temperature)
    return np.diff(np.vstack([np.zeros(n), inner, np.ones(n)]), axis=0)


score_lists = st.lists(
    # A coarse grid, so that ties and almost-ties are common.
    st.integers(-30, 30).map(lambda i: i / 7),
    min_size=2,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(score_lists, st.sampled_from([0.02, 0.1, 1.0, 30.0]))
def test_thresholds_and_matrix_agree_with_root_finding(scores, temperature):
    scores = np.array(scores)
    found = thresholds(torch.from_numpy(scores), temperature).numpy()
    assert found.shape == (len(scores) - 1,)
    assert (np.diff(found) <= 0).all()
    sums = laplace_function((scores - found[:, None]) / temperature).sum(1)
    np.testing.assert_allclose(sums, np.arange(1, len(scores)), rtol=1e-12)
    matrix = soft_permutation(torch.from_numpy(scores), temperature).numpy()
    np.testing.assert_allclose(matrix, by_roots(scores, temperature), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(score_lists, st.sampled_from(SCALES), st.sampled_from([0.1, 5.0]))
def test_it_is_doubly_stochastic_at_every_scale_with_finite_gradients(scores, scale, temperature):
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        leaf = (scale * torch.tensor(scores, dtype=dtype)).requires_grad_()
        matrix = soft_permutation(leaf, temperature)
        assert matrix.dtype == dtype
        assert matrix.min() >= 0
        assert (matrix.double().sum(-1) - 1).abs().max() <= error
        assert (matrix.double().sum(-2) - 1).abs().max() <= error
        (matrix * normal(*matrix.shape).to(dtype)).sum().backward()
        assert torch.isfinite(leaf.grad).all()
        assert torch.isfinite(thresholds(leaf, temperature)).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_many_scores_lose_no_mass(scale, dtype, error):
    # Entries far below any floor count, and every row still sums to 1: nothing is cut off below.
    scores = (scale * normal(2, 300)).to(dtype)
    matrix = soft_permutation(scores, 0.1).double()
    assert (matrix.sum(-1) - 1).abs().max() <= error
    assert (matrix.sum(-2) - 1).abs().max() <= error
    if scale == 1.0:
        assert 0 <= matrix.min() < 1e-12


def test_shift_scale_and_sign():
    scores = normal(3, 25)
    matrix = soft_permutation(scores, 0.2)
    torch.testing.assert_close(soft_permutation(scores + 3, 0.2), matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(soft_permutation(8 * scores, 1.6), matrix, rtol=0, atol=1e-13)
    torch.testing.assert_close(soft_permutation(-scores, 0.2), matrix.flip(-2), rtol=0, atol=1e-13)


def test_limits_of_the_temperature():
    scores = normal(20)
    ranks = torch.from_numpy(np.argsort(-scores.numpy()))
    hard = torch.eye(20, dtype=torch.float64)[ranks]
    torch.testing.assert_close(soft_permutation(scores, 1e-5), hard, rtol=0, atol=1e-12)
    even = torch.full((20, 20), 1 / 20, dtype=torch.float64)
    torch.testing.assert_close(soft_permutation(scores, 1e7), even, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_soft_rows_agree_with_a_hard_order_that_is_a_permutation(scale):
    # 300 scores in float32: the nearest sorted score of each is not unique under a fixed bandwidth,
    # so that picking the most likely one repeats some scores and leaves out others.
    scores = (scale * normal(300)).float()
    ranked = scores.sort(descending=True).values
    nearest = torch.softmax(-((scores - ranked[:, None]) ** 2), -1).argmax(-1)
    assert len(nearest.unique()) < 300
    smallest_gap = -ranked.double().diff().max().item()
    picked = soft_permutation(scores, smallest_gap / 10).argmax(-1)
    assert np.array_equal(picked.numpy(), np.argsort(-scores.numpy(), kind="stable"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaps_too_wide_for_plain_exponentials(dtype):
    # Clusters of tied scores 1e3 to 1e8 temperatures apart: each shares its ranks evenly.
    scores = torch.tensor([0, 1e2, 1e2, -1e7, 1e2, 1e2, 0], dtype=dtype).requires_grad_()
    matrix = soft_permutation(scores, 0.1)
    expected = torch.zeros(7, 7, dtype=dtype)
    expected[:4, [1, 2, 4, 5]] = 0.25
    expected[4:6, [0, 6]] = 0.5
    expected[6, 3] = 1
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-7)
    (matrix * normal(7, 7).to(dtype)).sum().backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_gradient_is_that_of_finite_differences(temperature):
    scores = normal(2, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: soft_permutation(r, temperature), scores)


def test_ties_have_the_gradient_of_finite_differences():
    scores = torch.tensor([0.3, 0.3, 0.3, -1.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: soft_permutation(r, 0.7), scores)


@pytest.mark.parametrize("spread", [1.0, 10.0, 3000.0])
@pytest.mark.parametrize("entries", [1, 150, 10**6])
def test_blocks_and_reach_change_nothing(monkeypatch, spread, entries):
    # At temperature 0.1 these spreads take products in float32, in float64, and exponentials.
    scores = (spread * normal(3, 40)).float()
    weight = normal(3, 40, 40)
    expected = np.stack([by_roots(row.numpy(), 0.1) for row in scores.double()])
    monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
    # The product without the matrix is another way to the gradient, without blocks.
    other = scores.double().requires_grad_()
    values = torch.eye(40, dtype=torch.float64).expand(3, 40, 40)
    (apply_soft_permutation(other, values, 0.1) * weight).sum().backward()
    for dtype, error in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        leaf = scores.to(dtype).clone().requires_grad_()
        matrix = soft_permutation(leaf, 0.1)
        np.testing.assert_allclose(matrix.detach().double().numpy(), expected, atol=error)
        (matrix * weight.to(dtype)).sum().backward()
        difference = (leaf.grad.double() - other.grad).abs().max()
        assert difference <= 10 * error * other.grad.abs().max()


def test_laplace_sums_are_the_double_loop():
    for spread in (0.01, 1.0, 1e3):
        points = (spread * normal(2, 33)).sort().values
        points[:, 5] = points[:, 4]
        values, queries = normal(2, 3, 33, seed=1), spread * normal(2, 21, seed=2)
        queries[0, 0] = points[0, 7]
        kernel = torch.exp(-(points[:, :, None] - queries[:, None]).abs())
        expected = values @ kernel
        torch.testing.assert_close(laplace_sums(points, values, queries), expected)
        left, right, count = laplace_sides(points, values, queries)
        below = (points[:, :, None] <= queries[:, None]).double()
        torch.testing.assert_close(left, values @ (kernel * below))
        torch.testing.assert_close(right, values @ (kernel * (1 - below)))
        assert torch.equal(count, below.sum(1).long())


@settings(max_examples=25, deadline=None)
@given(score_lists, st.sampled_from([0.01, 0.3, 10.0]), st.booleans(), st.integers(1, 4))
def test_products_without_the_matrix_equal_products_with_it(scores, temperature, transpose, width):
    n = len(scores)
    leaf = torch.tensor([scores, scores[::-1]], dtype=torch.float64).requires_grad_()
    values = normal(2, n, width).requires_grad_()
    weight = normal(2, n, width, seed=1)
    matrix = soft_permutation(leaf, temperature)
    dense = (matrix.mT if transpose else matrix) @ values
    free = apply_soft_permutation(leaf, values, temperature, transpose)
    torch.testing.assert_close(free, dense, rtol=0, atol=1e-9)
    expected = torch.autograd.grad((dense * weight).sum(), (leaf, values))
    found = torch.autograd.grad((free * weight).sum(), (leaf, values))
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_gradients_of_products_are_those_of_finite_differences(transpose, n):
    leaves = normal(2, n).requires_grad_(), normal(2, n, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, v: apply_soft_permutation(r, v, 0.4, transpose), leaves
    )


def test_a_hundred_thousand_scores():
    # The matrix would take 80 GB; rows of it come from the definition.
    n = 100_000
    scores, values = normal(n), normal(n, 1, seed=1)
    product = apply_soft_permutation(scores, values, 0.1)
    edges = thresholds(scores, 0.1).numpy()
    for k in (1, 777, n // 2, n - 2):
        above, below = (laplace_function((scores.numpy() - edges[j]) / 0.1) for j in (k - 1, k))
        expected = (below - above) @ values.numpy()[:, 0]
        assert product[k, 0].item() == pytest.approx(expected, abs=1e-9)
    ones = apply_soft_permutation(scores, torch.ones(n, 1, dtype=torch.float64), 0.1, True)
    torch.testing.assert_close(ones, torch.ones_like(ones), rtol=0, atol=1e-11)


def test_leading_dimensions_are_independent_problems():
    scores, values = normal(2, 3, 11), normal(2, 3, 11, 2, seed=1)
    matrix = soft_permutation(scores, 0.3)
    product = apply_soft_permutation(scores, values, 0.3)
    assert matrix.shape == (2, 3, 11, 11)
    for i in range(2):
        for j in range(3):
            alone = by_roots(scores[i, j].numpy(), 0.3)
            np.testing.assert_allclose(matrix[i, j].numpy(), alone, atol=1e-12)
            np.testing.assert_allclose(
                product[i, j].numpy(), alone @ values[i, j].numpy(), atol=1e-12
            )


def test_one_score_is_its_own_rank():
    scores = normal(4, 1).requires_grad_()
    values = normal(4, 1, 2, seed=1)
    assert torch.equal(soft_permutation(scores, 0.1), torch.ones(4, 1, 1, dtype=torch.float64))
    assert torch.equal(apply_soft_permutation(scores, values, 0.1), values)
    assert thresholds(scores, 0.1).shape == (4, 0)


def test_a_score_that_is_no_number_is_not_hidden():
    scores = normal(2, 6)
    scores[0, 2] = torch.nan
    assert soft_permutation(scores, 0.1)[0].isnan().any()
    product = apply_soft_permutation(scores, normal(2, 6, 1), 0.1)
    assert product[0].isnan().any()
    assert torch.isfinite(soft_permutation(scores[1:], 0.1)).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: soft_permutation(torch.arange(3), 0.1), TypeError, "scores must be a tensor"),
        (lambda: soft_permutation(torch.ones(2, 0), 0.1), ValueError, "n >= 1"),
        (lambda: soft_permutation(torch.ones(3), 0.0), ValueError, "temperature must be positive"),
        (lambda: thresholds(torch.ones(3), float("nan")), ValueError, "temperature"),
        (
            lambda: apply_soft_permutation(torch.ones(3), torch.ones(2, 1), 0.1),
            ValueError,
            "values must have shape",
        ),
        (
            lambda: apply_soft_permutation(torch.ones(3), [1.0], 0.1),
            TypeError,
            "values must be a tensor",
        ),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
