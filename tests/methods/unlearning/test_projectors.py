"""Projectors against numpy's SVD of the rows, scikit-learn's truncated SVD and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA, TruncatedSVD
from torch import nn

from sextant.methods.unlearning.projectors import (
    Projector,
    Spectrum,
    gradient_matrix,
    projector,
    set_gradient_matrix,
    set_weight_matrix,
    weight_matrix,
)

SETTINGS = [
    ("nscl", {"factor": 1.0}),
    ("nscl", {"factor": 30.0}),
    ("nscl", {"factor": 1e9}),
    ("gpm", {"energy": 0.0}),
    ("gpm", {"energy": 0.6}),
    ("gpm", {"energy": 0.999}),
    ("gpm", {"energy": 1.0}),
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def rows_of(count: int, width: int, seed: int = 0, decay: float = 0.6) -> torch.Tensor:
    """Rows whose directions fall off in strength, far from centred."""
    draw = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(draw.normal(size=(width, width)))
    strengths = decay ** np.arange(width)
    return torch.from_numpy((draw.normal(size=(count, width)) * strengths + strengths) @ turn)


def covariance_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize(("rule", "setting"), SETTINGS, ids=str)
def test_hard_projectors_are_projectors_of_their_rank(rule, setting):
    covariance = covariance_of(rows_of(200, 10))
    spectrum = Spectrum.of(covariance)
    made = spectrum.projector(rule, **setting)
    dense = made.dense()
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(dense @ dense, dense, rtol=0, atol=1e-13)
    assert dense.trace().item() == pytest.approx(made.kept, abs=1e-12)
    assert made.basis.shape[1] <= 5  # the thinner of the two bases
    fixed = 10 - int(made.kept)
    largest_free = spectrum.values[fixed].item() if fixed < 10 else 0.0
    assert torch.linalg.matrix_norm(covariance @ dense, 2).item() <= largest_free + 1e-14


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 9), count=st.integers(1, 20))
def test_free_spaces_are_nested_in_the_threshold(seed, width, count):
    spectrum = Spectrum.of(covariance_of(rows_of(count, width, seed)))
    for rule, name, values in (
        ("nscl", "factor", [1.0, 3.0, 30.0, 1e3, 1e15]),
        ("gpm", "energy", [1.0, 0.99, 0.7, 0.3, 0.0]),
    ):
        made = [spectrum.projector(rule, **{name: value}) for value in values]
        assert made[-1].kept == width
        for small, large in itertools.pairwise(made):
            assert small.kept <= large.kept
            torch.testing.assert_close(
                small.dense() @ large.dense(), small.dense(), rtol=0, atol=1e-10
            )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), energy=st.floats(0.01, 1.0))
def test_gpm_keeps_out_the_fewest_directions_of_the_svd_that_hold_the_energy(seed, energy):
    rows = rows_of(30, 8, seed)
    _, strengths, directions = np.linalg.svd(rows.numpy(), full_matrices=False)
    shares = np.cumsum(strengths**2) / np.sum(strengths**2)
    rank = int(np.argmax(shares >= energy - 1e-12)) + 1
    made = projector(covariance_of(rows), "gpm", energy=energy)
    if abs(shares[rank - 1] - energy) > 1e-9 and (
        rank < 2 or abs(shares[rank - 2] - energy) > 1e-9
    ):
        assert made.kept == 8 - rank
        top = directions[:rank]
        np.testing.assert_allclose(made.dense().numpy(), np.eye(8) - top.T @ top, atol=1e-7)


@pytest.mark.parametrize("seed", range(60))
def test_gpm_of_all_energy_keeps_out_the_rank(seed):
    """The running sum of eigenvalues reaches the trace only up to rounding."""
    width, rank = 6 + seed % 20, 1 + seed % 6
    rows = torch.randn(
        rank, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    assert projector(covariance_of(rows), "gpm", energy=1.0).kept == width - rank


def test_gpm_is_the_uncentred_svd_of_sklearn_and_not_the_centred_pca():
    rows = rows_of(300, 9)
    made = projector(covariance_of(rows), "gpm", energy=0.9)
    rank = 9 - int(made.kept)
    assert 1 <= rank <= 4
    fixed = np.linalg.svd(np.eye(9) - made.dense().numpy())[0][:, :rank]
    uncentred = TruncatedSVD(rank, algorithm="arpack").fit(rows.numpy()).components_.T
    centred = PCA(rank).fit(rows.numpy()).components_.T
    assert subspace_angles(fixed, uncentred).max() < 1e-6
    assert subspace_angles(fixed, centred).max() > 1e-2


@pytest.mark.parametrize("count", [1, 4, 7])
def test_nscl_finds_an_exact_null_space_whole_and_kills_the_rows(count):
    rows = rows_of(count, 8, decay=0.9)
    made = projector(covariance_of(rows), "nscl", factor=10.0)
    assert made.kept == 8 - count
    update = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = made.apply(update)
    assert (rows @ moved.T).abs().max() < 1e-13
    null = torch.from_numpy(np.linalg.svd(rows.numpy())[2][count:])
    torch.testing.assert_close(moved, update @ null.T @ null, rtol=0, atol=1e-12)


def test_nscl_counts_eigenvalues_up_to_a_multiple_of_the_smallest():
    covariance = torch.diag(torch.tensor([5.0, 0.5, 3.0, 40.0], dtype=torch.float64))
    for factor, kept in ((1.0, 1), (5.9, 1), (6.0, 2), (10.0, 3), (79.0, 3), (80.0, 4)):
        assert projector(covariance, "nscl", factor=factor).kept == kept


@pytest.mark.parametrize("strength", [1e-3, 0.5, 1e3])
def test_soft_is_the_ridge_resolvent(strength):
    covariance = covariance_of(rows_of(50, 7))
    level = strength * np.trace(covariance.numpy()) / 7
    expected = level * np.linalg.inv(covariance.numpy() + level * np.eye(7))
    made = projector(covariance, "soft", strength=strength)
    np.testing.assert_allclose(made.dense().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert made.kept == pytest.approx(np.trace(expected))
    again = projector(7.0 * covariance, "soft", strength=strength)
    torch.testing.assert_close(again.dense(), made.dense())


def test_features_that_are_always_zero_are_free_and_cost_no_decomposition():
    rows = rows_of(60, 6)
    wide = torch.zeros(60, 9, dtype=torch.float64)
    seen = [0, 2, 3, 5, 6, 8]
    wide[:, seen] = rows
    spectrum = Spectrum.of(covariance_of(wide))
    values = np.linalg.eigvalsh(covariance_of(wide).numpy())
    np.testing.assert_allclose(spectrum.values.numpy(), values[::-1], atol=1e-14)
    rebuilt = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
    torch.testing.assert_close(rebuilt, covariance_of(wide), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        spectrum.vectors.T @ spectrum.vectors, torch.eye(9, dtype=torch.float64)
    )
    made = spectrum.projector("gpm", energy=1 - 1e-12)
    unseen = torch.eye(9, dtype=torch.float64)[[1, 4, 7]]
    assert torch.equal(made.apply(unseen), unseen)


@pytest.mark.parametrize("rule", ["nscl", "gpm", "soft"])
def test_a_layer_that_saw_only_zeros_is_free(rule):
    made = projector(torch.zeros(4, 4), rule)
    assert torch.equal(made.dense(), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["nscl", "gpm", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_are_multiplied_by_the_dense_matrix_in_their_own_dtype(rule, dtype):
    made = projector(covariance_of(rows_of(50, 7)), rule)
    update = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = update.clone()
    for one in (made, made.to(update)):
        moved = one.apply(update)
        assert moved.dtype == dtype
        torch.testing.assert_close(moved, update @ made.dense().to(dtype), rtol=1e-4, atol=1e-5)
    assert torch.equal(update, kept)


@pytest.mark.parametrize(("rule", "setting"), [*SETTINGS, ("soft", {})], ids=str)
def test_normalised_projectors_have_frobenius_norm_one(rule, setting):
    covariance = covariance_of(rows_of(50, 7))
    plain, scaled = (projector(covariance, rule, n, **setting) for n in (False, True))
    assert plain.kept == scaled.kept
    norm = torch.linalg.matrix_norm(plain.dense())
    if norm > 0:
        torch.testing.assert_close(scaled.dense(), plain.dense() / norm)
    else:
        assert not scaled.dense().any()


def test_wrong_input_is_refused():
    good = torch.eye(3)
    for bad, said in (
        (torch.zeros(2, 3), "shape"),
        (torch.zeros(0, 0), "shape"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.full((2, 2), torch.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=said):
            Spectrum.of(bad)
    for rule, setting, said in (
        ("pca", {}, "rule"),
        ("nscl", {"factor": 0.5}, "factor"),
        ("nscl", {"floor": 1.0}, "floor"),
        ("gpm", {"energy": 1.5}, "energy"),
        ("soft", {"strength": 0.0}, "strength"),
    ):
        with pytest.raises(ValueError, match=said):
            projector(good, rule, **setting)
    with pytest.raises(TypeError):
        projector(good, "gpm", factor=3.0)
    with pytest.raises(ValueError, match="update"):
        projector(good, "gpm").apply(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="form"):
        Projector(good, "thin")
    with pytest.raises(ValueError, match="columns"):
        Projector(torch.zeros(2, 3), "keep")


def test_weights_are_read_and_written_as_the_matrix_that_multiplies_rows():
    torch.manual_seed(0)
    layer, features = nn.Linear(4, 3), torch.randn(5, 4)
    matrix = weight_matrix(layer)
    ones = torch.cat((features, torch.ones(5, 1)), 1)
    torch.testing.assert_close(ones @ matrix.T, layer(features).detach())
    set_weight_matrix(layer, 2 * matrix)
    torch.testing.assert_close(2 * ones @ matrix.T, layer(features).detach())
    assert weight_matrix(layer, bias=False).shape == (3, 4)
    assert gradient_matrix(layer) is None
    layer(features).sum().backward()
    torch.testing.assert_close(gradient_matrix(layer), ones.sum(0).expand(3, 5))
    set_gradient_matrix(layer, torch.arange(15.0).view(3, 5))
    assert layer.bias.grad.tolist() == [4.0, 9.0, 14.0]
    assert layer.weight.grad[1].tolist() == [5.0, 6.0, 7.0, 8.0]

    conv = nn.Conv2d(2, 3, (2, 3)).to(memory_format=torch.channels_last)
    image = torch.randn(1, 2, 2, 3)
    kept = conv.bias.detach().clone()
    product = weight_matrix(conv) @ image.flatten()
    torch.testing.assert_close(product + kept, conv(image).detach().flatten())
    set_weight_matrix(conv, 2 * weight_matrix(conv))
    torch.testing.assert_close(2 * product + kept, conv(image).detach().flatten())
    with pytest.raises(TypeError, match="BatchNorm1d"):
        weight_matrix(nn.BatchNorm1d(3))
