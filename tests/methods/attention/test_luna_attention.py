"""LUNA's attention against dense weights, loops and its own symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sextant.methods.attention.luna import attention as luna
from sextant.methods.attention.luna import sums
from sextant.methods.attention.luna.attention import LunaAttention

# By table, in pieces from a table, in pieces from the perceptron, all at once.
PATHS = [
    {},
    {"nonnegative": "softplus"},
    {"activation": "gelu", "nonnegative": "exp"},
    {"cap": 0.1},
    {"separate": True, "envelope": "softplus"},
    {"envelope": "expnorm", "nonnegative": "relu", "chunk": 64},
]
SMALL = {"head_dimension": 6, "features": 12, "channels": 3, "hidden": 10}


@pytest.fixture(autouse=True)
def few_tokens_count_as_many(monkeypatch):
    """Every form is tested on short sequences, whatever it is meant for."""
    monkeypatch.setattr(luna, "TABLE_PAYS", 1)
    monkeypatch.setattr(luna, "TOKENS_PER_KNOT", 0)


def tokens(n: int = 9, m: int = 13, width: int = 5, dtype=torch.float64) -> tuple[Tensor, ...]:
    """Queries (2, 3, n, 6), keys (2, 3, m, 6) and values (2, 3, m, width)."""
    return (
        torch.randn(2, 3, n, 6, dtype=dtype),
        torch.randn(2, 3, m, 6, dtype=dtype),
        torch.randn(2, 3, m, width, dtype=dtype),
    )


def alive(**settings) -> LunaAttention:
    """A small map whose channels are all alive at the start, so that no denominator is 0."""
    torch.manual_seed(5)
    return LunaAttention(**({"output_bias": 0.3} | SMALL | settings)).double()


def dense(attention: LunaAttention, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """The rows of weights that linear attention never forms."""
    weights = attention.feature_map(queries) @ attention.feature_map(keys).transpose(-1, -2)
    if mask is not None:
        weights = weights * mask[:, None, None, :]
    return weights / weights.sum(-1, keepdim=True).clamp(min=attention.epsilon)


def masks(m: int = 13) -> Tensor:
    mask = torch.rand(2, m) < 0.6
    mask[:, 0] = True
    return mask


@pytest.mark.parametrize("settings_", PATHS, ids=str)
@pytest.mark.parametrize("with_mask", [False, True])
def test_linear_form_is_the_quadratic_form(settings_, with_mask):
    attention = alive(**settings_)
    queries, keys, values = tokens()
    mask = masks() if with_mask else None
    seen = keys if mask is None else keys.masked_fill(~mask[:, None, :, None], 0)
    weights = dense(attention, queries, seen, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 9).double())
    assert (weights >= 0).all()
    output = attention(queries, keys, values, mask)
    torch.testing.assert_close(output, weights @ values, rtol=1e-10, atol=1e-12)


def test_against_loops_over_tokens():
    attention = alive()
    queries, keys, values = tokens(4, 5, 2)
    output = attention(queries, keys, values)
    for b in range(2):
        for h in range(3):
            for n in range(4):
                total, mixed = 0.0, torch.zeros(2, dtype=torch.float64)
                for m in range(5):
                    weight = attention.feature_map(queries[b, h, n]) @ attention.feature_map(
                        keys[b, h, m]
                    )
                    total, mixed = total + weight, mixed + weight * values[b, h, m]
                torch.testing.assert_close(output[b, h, n], mixed / total)


@pytest.mark.parametrize("settings_", PATHS, ids=str)
def test_float32_is_close_to_float64(settings_):
    attention = alive(**settings_)
    inputs = tokens(200, 300)
    exact = attention(*inputs)
    output = attention.float()(*(tensor.float() for tensor in inputs))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), exact, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**31), st.sampled_from(PATHS))
@settings(max_examples=20, deadline=None)
def test_order_of_tokens_means_nothing(seed, settings_):
    attention = alive(**settings_)
    torch.manual_seed(seed)
    queries, keys, values = tokens()
    output = attention(queries, keys, values)
    of_queries, of_keys = torch.randperm(9), torch.randperm(13)
    other = attention(queries[:, :, of_queries], keys[:, :, of_keys], values[:, :, of_keys])
    torch.testing.assert_close(other, output[:, :, of_queries], rtol=1e-9, atol=1e-11)


@given(st.integers(0, 2**31), st.sampled_from(PATHS))
@settings(max_examples=20, deadline=None)
def test_constant_values_stay_what_they_are(seed, settings_):
    attention = alive(**settings_)
    torch.manual_seed(seed)
    queries, keys, values = tokens()
    constant = values[:, :, :1].expand_as(values)
    output = attention(queries, keys, constant, masks())
    torch.testing.assert_close(output, values[:, :, :1].expand_as(output))


@pytest.mark.parametrize("settings_", [p for p in PATHS if "cap" not in p], ids=str)
def test_masked_keys_are_as_if_deleted(settings_):
    attention = alive(**settings_)
    queries, keys, values = tokens()
    kept = torch.tensor([0, 2, 3, 8, 11])
    mask = torch.zeros(2, 13, dtype=torch.bool)
    mask[:, kept] = True
    output = attention(queries, keys, values, mask)
    deleted = attention(queries, keys[:, :, kept], values[:, :, kept])
    torch.testing.assert_close(output, deleted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings_", PATHS, ids=str)
@pytest.mark.parametrize("garbage", [1e4, -1e4, math.nan, math.inf])
def test_garbage_in_masked_rows_changes_nothing(settings_, garbage):
    attention = alive(**settings_).float()
    queries, keys, values = tokens(dtype=torch.float32)
    mask = masks()
    results = []
    for filling in (0.0, garbage):
        inputs = [queries.clone()] + [
            tensor.masked_fill(~mask[:, None, :, None], filling) for tensor in (keys, values)
        ]
        for tensor in inputs:
            tensor.requires_grad_()
        output = attention(*inputs, mask)
        wanted = [*inputs, *attention.parameters()]
        results.append((output, *torch.autograd.grad(output.square().sum(), wanted)))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("settings_", [p for p in PATHS if "cap" not in p], ids=str)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_a_query_speaks_for_itself(settings_, garbage):
    attention = alive(**settings_).float()
    queries, keys, values = tokens(2000, dtype=torch.float32)
    clean = attention(queries, keys, values)
    queries[0, 1, 7] = garbage
    dirty = attention(queries, keys, values)
    others = torch.ones(2, 3, 2000, dtype=torch.bool)
    others[0, 1, 7] = False
    torch.testing.assert_close(clean[others], dirty[others])


@pytest.mark.parametrize("settings_", [*PATHS, {"nonnegative": "none"}], ids=str)
def test_rows_without_a_real_key_are_zero(settings_):
    attention = alive(**settings_)
    inputs = [tensor.requires_grad_() for tensor in tokens()]
    mask = masks()
    mask[0] = False
    output = attention(*inputs, mask)
    assert (output[0] == 0).all()
    assert output[1].abs().max() > 0
    for gradient in torch.autograd.grad(output.sum(), [*inputs, *attention.parameters()]):
        assert gradient.isfinite().all()


def test_envelope_of_queries_and_common_factors_cancel():
    queries, keys, values = tokens()
    with_envelope = alive(envelope="softplus", epsilon=1e-300)
    nn.init.normal_(with_envelope.feature_map.envelope_weight)
    output = with_envelope(queries, keys, values)
    feature_map = with_envelope.feature_map
    plain = alive(epsilon=1e-300)
    state = {k: v for k, v in with_envelope.state_dict().items() if "envelope" not in k}
    plain.load_state_dict(state)
    only_keys = plain.feature_map(keys) * feature_map.scale_of(keys)[..., None]
    weights = plain.feature_map(queries) @ only_keys.transpose(-1, -2)
    expected = weights / weights.sum(-1, keepdim=True) @ values
    torch.testing.assert_close(output, expected)
    assert (output - plain(queries, keys, values)).abs().max() > 1e-2  # those of keys do not
    before = plain(queries, keys, values)
    with torch.no_grad():
        plain.feature_map.channel_functions.second_weight.mul_(7.0)
        plain.feature_map.channel_functions.second_bias.mul_(7.0)
    torch.testing.assert_close(plain(queries, keys, values), before)


@pytest.mark.parametrize("functions", ["learned", "cosine_sine"])
def test_negative_features_keep_the_sign_of_the_denominator(functions):
    attention = alive(nonnegative="none", epsilon=0.05, functions=functions)
    queries, keys, values = tokens(500)
    feature_map = attention.feature_map
    if functions == "learned":
        with torch.no_grad():
            mean = feature_map.values(feature_map.project(queries)).flatten(0, -2).mean(0)
            feature_map.channel_functions.second_bias.sub_(mean)
    weights = attention.feature_map(queries) @ attention.feature_map(keys).transpose(-1, -2)
    total = weights.sum(-1, keepdim=True)
    assert (total < -0.05).any()
    assert (total.abs() < 0.05).any()
    guarded = torch.where(total.abs() < 0.05, torch.where(total < 0, -0.05, 0.05), total)
    torch.testing.assert_close(attention(queries, keys, values), weights @ values / guarded)


SMOOTH = [
    {"activation": "gelu", "nonnegative": "softplus"},
    {"activation": "silu", "nonnegative": "softplus", "envelope": "softplus", "separate": True},
    {"activation": "tanh", "nonnegative": "exp", "envelope": "expnorm"},
    {"activation": "gelu", "nonnegative": "softplus", "cap": 0.1},
    {},  # kinks, but none so close to these numbers that a difference steps over it
    {"envelope": "softplus", "separate": True},
]


@pytest.mark.parametrize("settings_", SMOOTH, ids=str)
def test_gradients_are_those_of_differences(settings_):
    torch.manual_seed(1)
    small = {"head_dimension": 3, "features": 4, "channels": 2, "hidden": 3}
    attention = alive(**small, **settings_)
    parameters = dict(attention.named_parameters())
    inputs = [
        torch.randn(1, 2, n, w).double().requires_grad_() for n, w in ((3, 3), (4, 3), (4, 2))
    ]
    mask = torch.tensor([[True, True, False, True]])

    def call(queries, keys, values, *numbers):
        state = dict(zip(parameters, numbers, strict=True))
        return torch.func.functional_call(attention, state, (queries, keys, values, mask))

    assert torch.autograd.gradcheck(call, (*inputs, *parameters.values()), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("settings_", PATHS, ids=str)
def test_every_learnt_number_gets_a_gradient(settings_):
    attention = alive(**({"channels": 3} | settings_))
    attention(*tokens(60, 60)).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    frozen = alive(learn_projection=False, learn_channels=False)
    assert list(frozen.parameters()) == []
    assert not frozen(*tokens()).requires_grad


@pytest.mark.parametrize("settings_", PATHS[1:4], ids=str)
def test_pieces_and_recomputation_change_nothing(settings_):
    inputs = [tensor.requires_grad_() for tensor in tokens(40, 50)]
    results = []
    for extra in ({"recompute": False}, {"chunk": 1}, {"chunk": 100}, {"chunk": 10**6}):
        attention = alive(**settings_, **extra)
        output = attention(*inputs, masks(50))
        wanted = [*inputs, *attention.parameters()]
        results.append((output, *torch.autograd.grad(output.square().sum(), wanted)))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_handfuls_of_heads_change_nothing(monkeypatch):
    attention = alive()
    inputs = [tensor.requires_grad_() for tensor in tokens(40, 50)]
    results = []
    for at_a_time in (1, 300, 1 << 18):
        monkeypatch.setattr(sums, "AT_A_TIME", at_a_time)
        monkeypatch.setattr(sums, "TOKENS_TIMES_PROJECTIONS", at_a_time)
        output = attention(*inputs)
        wanted = [*inputs, *attention.parameters()]
        results.append((output, *torch.autograd.grad(output.square().sum(), wanted)))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("rule", ["TABLE_PAYS", "TOKENS_PER_KNOT"])
def test_few_tokens_give_what_many_would(rule, monkeypatch):
    attention = alive(envelope="softplus")
    inputs = [tensor.requires_grad_() for tensor in tokens(40, 50)]
    mask = masks(50)
    results = []
    for threshold in (0, 1 << 30):
        monkeypatch.setattr(luna, rule, threshold)
        output = attention(*inputs, mask)
        wanted = [*inputs, *attention.parameters()]
        results.append((output, *torch.autograd.grad(output.square().sum(), wanted)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_the_table_gives_the_gradients_of_the_listing():
    torch.manual_seed(0)
    attention = LunaAttention(heads=2, head_dimension=16, length=3000).double()
    inputs = [torch.randn(1, 2, 3000, 16).double().requires_grad_() for _ in range(3)]
    output = attention(*inputs)
    features = [attention.feature_map(x) for x in inputs[:2]]  # without a table
    summary = features[1].transpose(-1, -2) @ inputs[2]
    total = features[0] @ features[1].sum(-2)[..., None]
    expected = features[0] @ summary / total
    gradient = torch.randn_like(output)
    wanted = [*inputs, *attention.parameters()]
    for ours, theirs in zip(
        (output, *torch.autograd.grad(output, wanted, gradient)),
        (expected, *torch.autograd.grad(expected, wanted, gradient)),
        strict=True,
    ):
        assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings_", PATHS, ids=str)
def test_half_precision_has_a_float32_core(dtype, settings_):
    attention = alive(**settings_).float()
    halves = [tensor.to(dtype) for tensor in tokens(300, 400, dtype=torch.float32)]
    exact = attention(*(tensor.float() for tensor in halves))
    with torch.autocast("cpu", torch.bfloat16):
        output = attention(*halves)
        mixed = attention(*(tensor.float() for tensor in halves))
    assert output.dtype == dtype
    assert mixed.dtype == torch.float32
    assert torch.equal(output, exact.to(dtype))
    torch.testing.assert_close(mixed, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings_", PATHS[:3], ids=str)
def test_little_is_kept_for_the_backward_pass(settings_):
    attention = alive(**settings_).float()

    def kept(n: int) -> int:
        storages = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (tensor, storage.nbytes())
            return tensor

        inputs = [tensor.requires_grad_() for tensor in tokens(n, n, 6, torch.float32)]
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            attention(*inputs)
        return sum(size for _, size in storages.values())

    # Tokens, their projections and sums, a float32 each; not features, let alone hidden layers.
    # Six heads in all.
    numbers = 6 * (3000 - 1000) * (3 * 6 + 2 * 4 + 2 * 7 + 2 * 2)
    assert kept(3000) - kept(1000) <= 4 * numbers


def test_diagnostics_name_the_smallest_denominator():
    attention = alive(output_bias=None)
    queries, keys, _ = tokens(13, 13)
    mask = masks()
    weights = attention.feature_map(queries) @ attention.feature_map(keys).transpose(-1, -2)
    found = attention.diagnostics(queries, keys, mask)
    sums = (weights * mask[:, None, None]).sum(-1)
    smallest = sums.masked_fill(~mask[:, None], torch.inf).min().item()
    assert found["smallest_denominator"] == pytest.approx(smallest, rel=1e-9)
    # What stands in the masked rows does not matter.
    wild = queries.masked_fill(~mask[:, None, :, None], 1e-9)
    again = attention.diagnostics(wild, keys, mask)
    assert again["smallest_denominator"] == pytest.approx(smallest, rel=1e-9)
    assert found["dead_channel_fraction"] == attention.feature_map.dead_channel_fraction()
    assert found["lipschitz"] > 0


@pytest.mark.parametrize("path", [{}, {"activation": "gelu"}])
def test_nothing_in_is_nothing_out(path):
    queries, keys, values = tokens(4, 0)
    output = alive(**path)(queries, keys, values)
    assert torch.equal(output, torch.zeros(2, 3, 4, 5).double())
    queries, keys, values = tokens(0, 4)
    assert alive(**path)(queries, keys, values).shape == (2, 3, 0, 5)
