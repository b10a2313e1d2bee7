"""Landmarks, projections and pivots against dense references and libraries."""

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist

from sextant.methods.attention.kernelized import KernelizedAttention
from sextant.methods.attention.linformer import LinformerAttention
from sextant.methods.attention.lotformer import LOTFormerAttention
from sextant.methods.attention.nystromformer import (
    NystromformerAttention,
    pseudo_inverse,
    segment_means,
)
from sextant.methods.attention.skyformer import SkyformerAttention, drawn_tokens

B, H, N, D, V = 2, 2, 12, 4, 3


@pytest.fixture
def rows():
    torch.manual_seed(0)
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[0, [2, 5, 11]] = False
    return *(torch.randn(B, H, N, width, dtype=torch.float64) for width in (D, D, V)), mask


def entries(rows):
    """Each batch entry and head with masked tokens deleted, as arrays."""
    for entry, head in np.ndindex(B, H):
        yield entry, head, *(row[entry, head][rows[3][entry]].numpy() for row in rows[:3])


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def gaussian(first, second):
    return np.exp(-cdist(first, second, "sqeuclidean") / 2)


def close(found, expected, **tolerance):
    torch.testing.assert_close(found, torch.as_tensor(expected), **tolerance)


def test_nystromformer_is_the_library_s(rows):
    """Without its convolution, the landmark count dividing the length, and nothing masked."""
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import (
        NystromformerSelfAttention,
    )

    config = NystromformerConfig(
        hidden_size=H * V,
        num_attention_heads=H,
        num_landmarks=4,
        segment_means_seq_len=N,
        attention_probs_dropout_prob=0.0,
    )
    library = NystromformerSelfAttention(config).double().eval()
    library.conv_kernel_size = None
    # Its other start of the inverse takes one maximum over the batch and the heads.
    library.init_option = "exact"
    hidden = torch.randn(B, N, H * V, dtype=torch.float64)
    queries, keys, values = (
        layer(hidden).unflatten(-1, (H, V)).transpose(1, 2)
        for layer in (library.query, library.key, library.value)
    )
    expected = library(hidden)[0].unflatten(-1, (H, V)).transpose(1, 2)
    close(NystromformerAttention(features=4)(queries, keys, values), expected)


def test_nystromformer_is_its_formula(rows):
    found = NystromformerAttention(features=3, iterations=30)(*rows)
    for entry, head, queries, keys, values in entries(rows):
        parts = np.arange(len(keys)) * 3 // len(keys)
        means = [
            np.stack([row[parts == part].mean(0) for part in range(3)]) for row in (queries, keys)
        ]
        scale = D**-0.5
        first = softmax(queries @ means[1].T * scale)
        middle = softmax(means[0] @ means[1].T * scale)
        last = softmax(means[0] @ keys.T * scale)
        expected = first @ np.linalg.pinv(middle) @ last @ values
        close(found[entry, head][rows[3][entry]], expected)


def test_few_tokens_get_softmax_attention(rows):
    found = NystromformerAttention(features=N)(*rows)
    for entry, head, queries, keys, values in entries(rows):
        expected = softmax(queries @ keys.T * D**-0.5) @ values
        close(found[entry, head][rows[3][entry]], expected)


def test_landmarks_of_no_token_do_not_count(rows):
    """Three queries are three landmarks of five, and twelve keys are more than five."""
    found = NystromformerAttention(features=5, iterations=60)(rows[0][:, :, :3], *rows[1:])
    for entry, head, _, keys, values in entries(rows):
        queries = rows[0][entry, head, :3].numpy()
        parts = np.arange(len(keys)) * 5 // len(keys)
        landmarks = np.stack([keys[parts == part].mean(0) for part in range(5)])
        weights = softmax(queries @ landmarks.T * D**-0.5)
        expected = weights @ np.linalg.pinv(weights) @ softmax(queries @ keys.T * D**-0.5) @ values
        close(found[entry, head], expected, rtol=1e-5, atol=1e-6)


def test_segments_are_even(rows):
    mask = rows[3]
    means, used = segment_means(rows[0], mask, 5)
    for entry, head, queries, _, _ in entries(rows):
        parts = [list(range(len(queries)))[k] * 5 // len(queries) for k in range(len(queries))]
        sizes = np.bincount(parts, minlength=5)
        assert sizes.max() - sizes.min() <= 1
        for part in range(5):
            expected = queries[[p == part for p in parts]].mean(0)
            close(means[entry, head, part], expected)
    assert used.all()
    means, used = segment_means(rows[0], torch.arange(N).expand(B, N) < 3, 5)
    assert used.sum() == B * 3
    assert (means[~used[:, None].expand(-1, H, -1)] == 0).all()
    same, nothing = segment_means(rows[0], None, 4)
    assert nothing is None
    close(same, segment_means(rows[0], torch.ones_like(mask), 4)[0])


def test_pseudo_inverse():
    torch.manual_seed(0)
    matrix = torch.randn(3, 6, 6, dtype=torch.float64).softmax(-1)
    # Landmarks of no token: rows and columns of 0 must come out as 0, as in the exact inverse.
    matrix[0, :, 4:] = 0
    matrix[0, 4:] = 0
    expected = torch.linalg.pinv(matrix, rtol=1e-10)
    close(pseudo_inverse(matrix, 40), expected)
    six, four = (
        (matrix @ pseudo_inverse(matrix, steps) @ matrix - matrix).abs().max() for steps in (6, 4)
    )
    assert six < four


@pytest.mark.parametrize("learned", [True, False])
def test_linformer(rows, learned):
    torch.manual_seed(0)
    attend = LinformerAttention(H, length=20, features=5, learned=learned, deviation=1.0).double()
    projection = attend.projection.detach().numpy()
    found = attend(*rows)
    for entry, head, queries, keys, values in entries(rows):
        kept = projection[head][:, :N][:, rows[3][entry].numpy()]
        expected = softmax(queries @ (kept @ keys).T * D**-0.5) @ (kept @ values)
        close(found[entry, head][rows[3][entry]], expected)
    assert len(list(attend.parameters())) == learned
    assert list(attend.state_dict()) == ["projection"]


def test_linformer_starts_small():
    torch.manual_seed(0)
    projection = LinformerAttention(4, length=500).projection
    assert projection.shape == (4, 128, 500)
    assert abs(projection.std() - 0.02) < 1e-4


def test_kernelized(rows):
    found = KernelizedAttention()(*rows)
    for entry, head, queries, keys, values in entries(rows):
        expected = gaussian(queries * D**-0.25, keys * D**-0.25) @ values
        close(found[entry, head][rows[3][entry]], expected)


def test_skyformer_is_its_formula(rows):
    torch.manual_seed(0)
    attend = SkyformerAttention(features=6, iterations=30).double().eval()
    places, found = attend.places.numpy(), attend(*rows)
    for entry, head, queries, keys, values in entries(rows):
        queries, keys = queries * D**-0.25, keys * D**-0.25
        drawn = [(part * len(keys)).astype(int) for part in (places[:3], places[3:])]
        landmarks = np.concatenate((queries[drawn[0]], keys[drawn[1]]))
        gram = gaussian(landmarks, landmarks) + 0.1 * np.eye(6)
        weights = gaussian(queries, landmarks) @ np.linalg.inv(gram) @ gaussian(landmarks, keys)
        close(found[entry, head][rows[3][entry]], weights @ values)


def test_skyformer_with_all_landmarks_is_kernelized(rows):
    attend = SkyformerAttention(features=2 * N, iterations=40, ridge=1e-6).double().eval()
    attend.places.copy_(((torch.arange(N) + 0.5) / N).repeat(2))
    expected = KernelizedAttention()(*rows[:3])
    close(attend(*rows[:3]), expected, rtol=0, atol=1e-4)
    assert expected.abs().max() > 1


def test_skyformer_draws_anew_only_in_training(rows):
    attend = SkyformerAttention(features=4).double()
    assert not torch.equal(attend(*rows), attend(*rows))
    attend.eval()
    assert torch.equal(attend(*rows), attend(*rows))


def test_drawn_tokens_are_real(rows):
    places = torch.rand(B, 1000)
    index = drawn_tokens(places, rows[3], rows[0])
    for entry in range(B):
        real = rows[3][entry].nonzero()[:, 0]
        counts = torch.bincount(index[entry], minlength=N)
        assert counts[~rows[3][entry]].sum() == 0
        assert (counts[real] - 1000 / len(real)).abs().max() < 45
        close(index[entry], real[(places[entry] * len(real)).long()])


@pytest.mark.parametrize("learned", [True, False])
def test_lotformer_composes_the_library_s_plans(rows, learned):
    torch.manual_seed(0)
    attend = LOTFormerAttention(
        H, D, pivots=3, regularisation=0.3, iterations=400, learned_masses=learned
    ).double()
    if learned:
        torch.nn.init.normal_(attend.masses)
    assert len(list(attend.parameters())) == 1 + learned
    masses = attend.masses.detach().softmax(-1).numpy()
    found = attend(*rows)
    for entry, head, queries, keys, values in entries(rows):
        pivots, mass = attend.pivots[head].detach().numpy(), masses[head]
        uniform = np.full(len(keys), 1 / len(keys))
        options = {"method": "sinkhorn_log", "numItermax": 5000, "stopThr": 1e-12}
        # Squared distances: the terms of one side that they add do not change the plan.
        scale = 0.5 * D**-0.5
        first = cdist(queries, pivots, "sqeuclidean") * scale
        second = cdist(pivots, keys, "sqeuclidean") * scale
        first = ot.sinkhorn(uniform, mass, first, 0.3, **options)
        second = ot.sinkhorn(mass, uniform, second, 0.3, **options)
        expected = len(keys) * first / mass @ second @ values
        close(found[entry, head][rows[3][entry]], expected, rtol=1e-6, atol=1e-8)


def test_lotformer_is_doubly_stochastic_and_of_low_rank(rows):
    torch.manual_seed(0)
    identity = torch.eye(N, dtype=torch.float64).expand(B, H, N, N)
    real = rows[3][:, None, :, None] & rows[3][:, None, None, :]
    for iterations, columns in ((1, False), (300, True)):
        attend = LOTFormerAttention(H, D, pivots=3, regularisation=0.3, iterations=iterations)
        weights = attend.double()(*rows[:2], identity, rows[3]).detach() * real
        assert (weights >= 0).all()
        expected = rows[3][:, None].expand(-1, H, -1).double()
        close(weights.sum(-1), expected)
        assert torch.allclose(weights.sum(-2), expected, atol=1e-6) == columns
        assert torch.linalg.matrix_rank(weights).max() <= 3


def test_lotformer_is_differentiated_through_its_iterations(rows):
    torch.manual_seed(0)
    attend = LOTFormerAttention(H, D, pivots=2, regularisation=0.5, iterations=3).double()
    small = [row[:, :, :4].requires_grad_() for row in rows[:3]]
    mask = rows[3][:, :4]

    def output(*leaves):
        state = {"pivots": leaves[0], "masses": leaves[1]}
        return torch.func.functional_call(attend, state, (*leaves[2:], mask))

    inputs = (attend.pivots, attend.masses, *small)
    assert torch.autograd.gradcheck(output, inputs, fast_mode=True)


def test_bad_settings_are_named():
    sizes = {"heads": H, "head_dimension": D}
    for kind, arguments, name in (
        (NystromformerAttention, {"features": 0}, "features"),
        (NystromformerAttention, {"iterations": 0}, "iterations"),
        (LinformerAttention, {"heads": H, "length": 4, "features": 0}, "features"),
        (LinformerAttention, {"heads": H, "length": 4, "deviation": 0.0}, "deviation"),
        (LinformerAttention, {"heads": H, "length": 0}, "length"),
        (SkyformerAttention, {"features": 1}, "features"),
        (SkyformerAttention, {"iterations": 0}, "iterations"),
        (SkyformerAttention, {"ridge": 0.0}, "ridge"),
        (LOTFormerAttention, sizes | {"pivots": 0}, "pivots"),
        (LOTFormerAttention, sizes | {"iterations": 0}, "iterations"),
        (LOTFormerAttention, sizes | {"regularisation": 0.0}, "regularisation"),
    ):
        with pytest.raises(ValueError, match=name):
            kind(**arguments)
