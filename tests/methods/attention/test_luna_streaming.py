"""Causal LUNA token by token, in chunks and as masked dense weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sextant.methods.attention.luna.attention import LunaAttention

KINDS = [
    {},
    {"nonnegative": "softplus", "envelope": "softplus"},
    {"activation": "gelu", "separate": True},
    {"functions": "exponential", "envelope": "expnorm"},
]


def attention_and_tokens(n: int = 23, **settings_) -> tuple[LunaAttention, list[Tensor]]:
    """A map whose channels are alive, and queries, keys (2, 3, n, 6), values (2, 3, n, 4)."""
    torch.manual_seed(4)
    sizes = {"head_dimension": 6, "features": 12, "channels": 3, "hidden": 8, "output_bias": 0.3}
    attention = LunaAttention(**sizes, **settings_).double()
    return attention, [torch.randn(2, 3, n, width).double() for width in (6, 6, 4)]


def dense(attention: LunaAttention, tokens: list[Tensor], mask: Tensor | None = None) -> Tensor:
    queries, keys, values = tokens
    weights = attention.feature_map(queries) @ attention.feature_map(keys).transpose(-1, -2)
    weights = weights.tril()
    if mask is not None:
        weights = weights * mask[:, None, None, :]
    return weights @ values / weights.sum(-1, keepdim=True).clamp(min=attention.epsilon)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
def test_chunks_give_the_masked_quadratic_form(kind, chunk):
    attention, tokens = attention_and_tokens(**kind)
    state = attention.start(tokens[0], tokens[2])
    output, state = attention.stream(state, *tokens, chunk=chunk)
    torch.testing.assert_close(output, dense(attention, tokens), rtol=1e-9, atol=1e-11)
    features = attention.feature_map(tokens[1])
    torch.testing.assert_close(state.total, features.sum(-2))
    torch.testing.assert_close(state.summary, features.transpose(-1, -2) @ tokens[2])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_calls_continue_one_another(lengths, chunk):
    attention, tokens = attention_and_tokens(sum(lengths))
    mask = torch.rand(2, sum(lengths)) < 0.7
    state, outputs = attention.start(tokens[0], tokens[2]), []
    parts = zip(*(tensor.split(lengths, 2) for tensor in tokens), strict=True)
    for part, own_mask in zip(parts, mask.split(lengths, 1), strict=True):
        output, state = attention.stream(state, *part, own_mask, chunk)
        outputs.append(output)
    expected = dense(attention, tokens, mask)
    torch.testing.assert_close(torch.cat(outputs, 2), expected, rtol=1e-9, atol=1e-11)


def test_last_token_sees_what_the_parallel_form_sees():
    attention, tokens = attention_and_tokens(50)
    output, _ = attention.stream(attention.start(tokens[0], tokens[2]), *tokens, chunk=8)
    torch.testing.assert_close(output[:, :, -1], attention(*tokens)[:, :, -1])


@given(st.integers(0, 22), st.sampled_from([1, 5, 23]))
@settings(max_examples=20, deadline=None)
def test_the_future_does_not_change_the_past(changed, chunk):
    attention, tokens = attention_and_tokens()
    state = attention.start(tokens[0], tokens[2])
    before, _ = attention.stream(state, *tokens, chunk=chunk)
    for tensor in tokens:
        tensor[:, :, changed] += 3.0
    after, _ = attention.stream(state, *tokens, chunk=chunk)
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    assert (before[:, :, changed] != after[:, :, changed]).any()


def test_gradients_pass_through_the_state():
    attention, tokens = attention_and_tokens()
    wanted = [tensor.requires_grad_() for tensor in tokens] + list(attention.parameters())
    output, _ = attention.stream(attention.start(tokens[0], tokens[2]), *tokens, chunk=5)
    weight = torch.randn_like(output)
    ours = torch.autograd.grad((weight * output).sum(), wanted)
    theirs = torch.autograd.grad((weight * dense(attention, tokens)).sum(), wanted)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-10)


def test_garbage_in_masked_rows_changes_nothing():
    attention, tokens = attention_and_tokens()
    mask = torch.rand(2, 23) < 0.5
    mask[:, 0] = False  # the first query sees nothing
    state = attention.start(tokens[0], tokens[2])
    clean, _ = attention.stream(state, *tokens, mask, chunk=6)
    for tensor in tokens[1:]:
        tensor[~mask[:, None].expand(2, 3, 23)] = float("nan")
    dirty, after = attention.stream(state, *tokens, mask, chunk=6)
    assert torch.equal(clean, dirty)
    assert (clean[:, :, 0] == 0).all()
    assert after.summary.isfinite().all()


def test_half_precision_keeps_a_float32_state():
    attention, tokens = attention_and_tokens(300)
    halves = [tensor.bfloat16() for tensor in tokens]
    attention = attention.float()
    with torch.autocast("cpu", torch.bfloat16):
        output, state = attention.stream(attention.start(halves[0], halves[2]), *halves)
    assert output.dtype == torch.bfloat16
    assert state.summary.dtype == state.total.dtype == torch.float32
    exact = dense(attention.double(), [tensor.double() for tensor in halves])
    torch.testing.assert_close(output.double(), exact, rtol=2**-7, atol=1e-3)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation had, and all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, size)
                self.total += tensor.numel()
        return result


def test_no_result_is_larger_than_the_tokens():
    n = 3000
    attention = LunaAttention(head_dimension=8, features=128, channels=8)
    tokens = [torch.randn(1, 1, n, 8) for _ in range(3)]
    with torch.no_grad(), Largest() as largest:
        attention.stream(attention.start(tokens[0], tokens[2]), *tokens, chunk=64)
    assert n * 8 <= largest.numbers < 2 * n * 8  # n D d_v is 1024 times n, and n^2 is 3000 times n
    with torch.no_grad(), Largest() as largest:
        attention(*tokens)
    assert largest.numbers <= n * 16
    with Largest() as largest:
        attention(*(tensor.requires_grad_() for tensor in tokens)).sum().backward()
    assert largest.numbers < n * 16 * 8  # not even features


@pytest.mark.parametrize("kind", [{}, {"nonnegative": "softplus"}, {"activation": "gelu"}], ids=str)
def test_work_grows_with_length_and_not_its_square(kind):
    attention = LunaAttention(head_dimension=8, **kind)

    def written(n: int) -> int:
        tokens = [torch.randn(1, 2, n, 8).requires_grad_() for _ in range(3)]
        with Largest() as largest:
            attention(*tokens).sum().backward()
        return largest.total

    assert 3 * written(1024) < written(4096) < 5 * written(1024)


@pytest.mark.parametrize(
    ("keywords", "change", "message"),
    [
        ({"chunk": 0}, {}, "chunk must be at least 1"),
        ({}, {1: torch.zeros(2, 3, 5, 6).double()}, "as many as the"),
        ({}, {2: torch.zeros(2, 3, 23, 5).double()}, "state must have"),
    ],
)
def test_calls_that_make_no_sense_are_refused(keywords, change, message):
    attention, tokens = attention_and_tokens()
    state = attention.start(tokens[0], tokens[2])
    tokens = [change.get(place, tensor) for place, tensor in enumerate(tokens)]
    with pytest.raises(ValueError, match=message):
        attention.stream(state, *tokens, **keywords)


def test_a_cap_cannot_stream():
    attention, tokens = attention_and_tokens(cap=0.1)
    with pytest.raises(ValueError, match="cap"):
        attention.stream(attention.start(tokens[0], tokens[2]), *tokens)
