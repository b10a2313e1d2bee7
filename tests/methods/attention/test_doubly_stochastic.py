"""ESP, Sinkhorn and differential attention: their matrices, their settings, their traps."""

import math

import ot
import pytest
import torch
from torch.nn import functional

from sextant.methods.attention.differential import DifferentialAttention
from sextant.methods.attention.esp import ESPAttention
from sextant.methods.attention.sinkhorn import SinkhornAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.uniform import UniformAttention

H, D = 2, 8


def drawn(number=20, batch=2, other=None, seed=0):
    torch.manual_seed(seed)
    sizes = (number, number if other is None else other)
    return [torch.randn(batch, H, size, D, dtype=torch.float64) for size in (*sizes, sizes[1])]


def matrix(attention, queries, keys, mask=None):
    """The attention's weights (B, H, N, M): what it makes of the unit matrix."""
    unit = torch.eye(keys.shape[2], dtype=keys.dtype).expand(*keys.shape[:2], -1, -1)
    return attention(queries, keys, unit, mask)


def esp(**settings):
    return ESPAttention(H, D, **{"tau": 20.0, "temperature": 0.01} | settings).double()


@pytest.mark.parametrize("sorting", ["lapsum", "hard"])
def test_esp_is_doubly_stochastic(sorting):
    queries, keys, _ = drawn()
    found = matrix(esp(sorting=sorting), queries, keys)
    for axis in (2, 3):
        torch.testing.assert_close(found.sum(axis), torch.ones_like(found.sum(axis)))
    queries, keys, _ = drawn(12, other=30)
    found = matrix(esp(sorting=sorting), queries, keys)
    torch.testing.assert_close(found.sum(3), torch.ones_like(found.sum(3)))
    torch.testing.assert_close(found.sum(2), torch.full_like(found.sum(2), 12 / 30))


def test_esp_trained_softly_may_be_evaluated_hard():
    queries, keys, values = drawn()
    attention = esp(evaluation="hard")
    soft, hard = attention(queries, keys, values), attention.eval()(queries, keys, values)
    torch.testing.assert_close(soft, esp()(queries, keys, values))
    torch.testing.assert_close(hard, esp(sorting="hard")(queries, keys, values))
    assert (soft - hard).abs().max() > 1e-2


def test_esp_slices():
    queries, keys, values = drawn()
    with_axes = esp()(queries, keys, values)
    frozen = esp(slicer="frozen")
    assert frozen.directions.shape == (H, D, D)
    assert not list(frozen.parameters())
    frozen.directions.copy_(3.0 * torch.eye(D))
    # Directions have length 1, however long the vectors are that they are kept as.
    torch.testing.assert_close(frozen(queries, keys, values), with_axes)
    learned = esp(slicer="learned", slices=3)
    assert learned.directions.shape == (H, 3, D)
    learned(queries, keys, values).square().sum().backward()
    assert learned.directions.grad.abs().sum() > 0
    assert learned.slice_weights(queries, keys, None).shape == (2, H, 3)
    # Every head and every batch entry has its own, in this order.
    alone = esp(slicer="frozen", slices=3)
    alone.directions.copy_(learned.directions.detach())
    found = learned(queries, keys, values)
    for head in range(H):
        alone.directions[0] = learned.directions[head].detach()
        rows = (row[1:, head : head + 1].expand(-1, H, -1, -1) for row in (queries, keys, values))
        torch.testing.assert_close(alone(*rows)[0, 0], found[1, head])


def test_esp_tau_of_the_released_code():
    """T, for sums over the tokens, is the paper's N T; N counts real tokens."""
    queries, keys, values = drawn()
    mask = torch.arange(20).expand(2, -1) < torch.tensor([[20], [8]])
    code = esp(tau=2.0, tokens_times_tau=True)
    found = code(queries, keys, values, mask)
    for entry, count in ((0, 20), (1, 8)):
        rows = (row[entry : entry + 1, :, :count] for row in (queries, keys, values))
        expected = esp(tau=2.0 * count)(*rows)
        torch.testing.assert_close(found[entry : entry + 1, :, :count], expected)
    weights = code.slice_weights(queries, keys, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    torch.testing.assert_close(
        weights[0], esp(tau=40.0).slice_weights(queries, keys, mask)[0], rtol=1e-9, atol=0
    )


def test_esp_anneals_between_30_and_90_percent():
    attention = esp(temperature=1e-2, final_temperature=1e-4)
    for share, expected in ((0.0, 1e-2), (0.3, 1e-2), (0.6, 1e-3), (0.9, 1e-4), (1.0, 1e-4)):
        attention.anneal(share)
        assert attention.temperature.item() == pytest.approx(expected)
    # The temperature is a part of the weights.
    other = esp(temperature=1e-2)
    other.load_state_dict(attention.state_dict())
    rows = drawn()
    torch.testing.assert_close(other(*rows), attention(*rows))
    attention.reset_parameters()
    assert attention.temperature.item() == pytest.approx(1e-2)
    constant = esp(temperature=1e-2)
    constant.anneal(1.0)
    assert constant.temperature.item() == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"causal": True},
            "causal must be False: a doubly stochastic matrix without entries above",
        ),
        ({"sorting": "bubble"}, "sorting must be 'softsort' or 'lapsum' or 'hard', got 'bubble'"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"tau": -1.0}, "tau must be finite and not negative, got -1.0"),
        ({"tau": math.inf}, "tau must be finite"),
        ({"slices": 3}, "slices must be the head dimension 8 or None for a slicer of 'axes'"),
        ({"cost_power": 3}, "cost_power must be 1 or 2, got 3"),
    ],
)
def test_esp_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        esp(**settings)


def test_a_causal_doubly_stochastic_matrix_is_the_identity():
    """What the refusal says: projecting onto lower triangular ones leaves nothing else."""
    torch.manual_seed(0)
    scores = torch.randn(6, 6).tril() + torch.full((6, 6), -torch.inf).triu(1)
    for step in range(40000):
        scores = scores - scores.logsumexp(1 - step % 2, keepdim=True)
    torch.testing.assert_close(scores.exp(), torch.eye(6), rtol=0, atol=1e-2)


@pytest.mark.parametrize("attention", [esp(), esp(sorting="lapsum"), esp(sorting="hard")])
def test_one_matrix_and_one_token(attention):
    queries, keys, values = (row[:1, :1].expand(-1, H, -1, -1) for row in drawn())
    found = attention(queries, keys, values)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    one = [row[:, :, :1] for row in (queries, keys, values)]
    torch.testing.assert_close(attention(*one), one[2])


def test_one_half_step_is_softmax():
    for batch, heads in ((2, 2), (1, 1)):
        rows = [row[:batch, :heads] for row in drawn()]
        mask = torch.rand(batch, 20) < 0.5
        mask[:, 0] = True
        for real in (None, mask):
            found = SinkhornAttention(half_steps=1)(*rows, real)
            kept = slice(None) if real is None else real[:, None, :, None].expand(found.shape)
            expected = SoftmaxAttention()(*rows, real)
            torch.testing.assert_close(found[kept], expected[kept])


def test_half_steps_end_on_rows_where_odd():
    queries, keys, _ = drawn(10, other=25)
    for steps, axis, total in ((5, 3, 1.0), (4, 2, 10 / 25)):
        found = matrix(SinkhornAttention(half_steps=steps), 4 * queries, keys)
        exact, loose = found.sum(axis), found.sum(5 - axis)
        torch.testing.assert_close(exact, torch.full_like(exact, total))
        assert (loose / (25 / 10 * total if axis == 2 else 10 / 25) - 1).abs().max() > 1e-3


def test_many_half_steps_are_the_entropic_plan():
    queries, keys, _ = drawn(15)
    found = matrix(SinkhornAttention(half_steps=401), queries, keys)
    cost = -queries @ keys.transpose(-1, -2) / math.sqrt(D)
    expected = ot.sinkhorn([], [], cost[1, 0].numpy(), 1.0, stopThr=1e-13)
    torch.testing.assert_close(found[1, 0], 15 * torch.from_numpy(expected))


def test_sinkhorn_of_large_scores_and_few_real_tokens_has_numbers():
    rows = [row.float().requires_grad_() for row in drawn()]
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 3] = True
    output = SinkhornAttention(half_steps=4)(50 * rows[0], rows[1], rows[2], mask)
    output.square().sum().backward()
    torch.testing.assert_close(output[0, :, 3], rows[2][0, :, 3])
    assert all(row.grad.isfinite().all() for row in rows)


def test_sinkhorn_refuses():
    with pytest.raises(ValueError, match="half_steps must be at least 1, got 0"):
        SinkhornAttention(half_steps=0)
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        SinkhornAttention(epsilon=0)


def differential(**settings):
    torch.manual_seed(1)
    return DifferentialAttention(H, D, **settings).double()


def test_differential_without_lambda_is_normed_softmax():
    queries, keys, values = drawn()
    attention = differential(initial=0.0)
    with torch.no_grad():
        attention.vectors.zero_()
    softmax = SoftmaxAttention()(queries[..., : D // 2], keys[..., : D // 2], values)
    expected = functional.rms_norm(softmax, (D,), eps=1e-5)
    torch.testing.assert_close(attention(queries, keys, values), expected)


def test_differential_as_published():
    queries, keys, values = drawn()
    attention = differential(layer=3)
    first = 0.8 - 0.6 * math.exp(-0.6)
    assert attention.first_lambda == pytest.approx(first)
    a, b, c, d = attention.vectors.detach()
    share = math.exp(a @ b) - math.exp(c @ d) + first
    halves = [
        (q @ k.transpose(-1, -2) / math.sqrt(D // 2)).softmax(-1)
        for q, k in zip(queries.chunk(2, -1), keys.chunk(2, -1), strict=True)
    ]
    mixed = (halves[0] - share * halves[1]) @ values
    normed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(attention(queries, keys, values), (1 - first) * normed)


@pytest.mark.parametrize(
    "inner", [None, ESPAttention(H, D // 2), ESPAttention(H, D // 2, sorting="hard")]
)
def test_differential_is_equivariant(inner):
    """Which the released one is not, as it scrambles tokens with heads."""
    queries, keys, values = drawn()
    attention = differential(inner=inner)
    order = torch.randperm(20)
    moved = attention(*(row[:, :, order] for row in (queries, keys, values)))
    torch.testing.assert_close(moved, attention(queries, keys, values)[:, :, order])

    def scrambled(queries, keys, values):
        rows = (row.transpose(1, 2).reshape(2, H, -1, D) for row in (queries, keys, values))
        return attention(*rows)

    moved = scrambled(*(row[:, :, order] for row in (queries, keys, values)))
    assert (moved - scrambled(queries, keys, values)[:, :, order]).abs().max() > 0.1


def test_esp_inside_differential():
    queries, keys, values = drawn()
    inner = {"temperature": 0.01, "final_temperature": 1e-4}
    attention = differential(inner=ESPAttention(H, D // 2, **inner), initial=0.3)
    with torch.no_grad():
        attention.vectors.zero_()
    one, two = (
        ESPAttention(H, D // 2, **inner)(q, k, values)
        for q, k in zip(queries.chunk(2, -1), keys.chunk(2, -1), strict=True)
    )
    expected = 0.7 * functional.rms_norm(one - 0.3 * two, (D,), eps=1e-5)
    torch.testing.assert_close(attention(queries, keys, values), expected)


def test_differential_refuses():
    with pytest.raises(ValueError, match="head_dimension must be even, got 7"):
        DifferentialAttention(H, 7)
    with pytest.raises(
        ValueError, match="inner must be made for half the head dimension, 4, got 8"
    ):
        DifferentialAttention(H, D, inner=ESPAttention(H, D))
    with pytest.raises(ValueError, match="initial must lie in"):
        DifferentialAttention(H, D, initial=1.0)
    queries, keys, values = drawn()
    with pytest.raises(ValueError, match="values must be as wide as the queries"):
        differential()(queries, keys, values[..., :3])


def test_uniform_is_the_mean_of_real_values():
    queries, keys, values = drawn()
    mask = torch.arange(20).expand(2, -1) < torch.tensor([[20], [8]])
    found = UniformAttention()(queries, keys, values, mask)
    torch.testing.assert_close(found[1, :, 5], values[1, :, :8].mean(1))
    torch.testing.assert_close(found[0, :, 0], values[0].mean(1))
