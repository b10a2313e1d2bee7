"""Tokens of every length, by seed and length alone."""

import pytest
import torch

from sextant.contracts import Streams
from tasks.attention_cost.data import NormalTokens


def begun(seed=0, **changes):
    module = NormalTokens(**{"lengths": [8, 32]} | changes)
    module.prepare(Streams(seed), {})
    return module


def test_tokens_depend_on_seed_and_length_alone():
    first, again, other = begun(), begun(lengths=[32]), begun(seed=1)
    for found, expected in zip(first.tokens(32), again.tokens(32), strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(first.tokens(32)[0], other.tokens(32)[0])
    assert not torch.equal(first.tokens(32)[0][:, :, :8], first.tokens(8)[0])


def test_tokens_are_standard_normal_and_apart():
    queries, keys, values = begun(batch=2, heads=3, head_dimension=4).tokens(2000)
    assert queries.shape == keys.shape == values.shape == (2, 3, 2000, 4)
    together = torch.stack([queries, keys, values]).flatten(1)
    torch.testing.assert_close(together.cov(), torch.eye(3), rtol=0, atol=0.03)
    assert together.mean(1).abs().max() < 0.03
    assert queries.untyped_storage().nbytes() == queries.numel() * 4


def test_bfloat16_is_rounded_from_float32():
    for wide, narrow in zip(begun().tokens(8), begun(dtype="bfloat16").tokens(8), strict=True):
        assert narrow.dtype == torch.bfloat16
        torch.testing.assert_close(narrow.float(), wide, rtol=2**-8, atol=0)


def test_settings_are_checked_and_named():
    for name in ("batch", "heads", "head_dimension"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            begun(**{name: 0})
    for lengths in ([], [4, 2], [0, 1], [2, 2]):
        with pytest.raises(ValueError, match="lengths must be above 0 and rise"):
            begun(lengths=lengths)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'half'"):
        begun(dtype="half")
    with pytest.raises(RuntimeError, match="prepare"):
        NormalTokens([4]).tokens(4)
    assert begun().fingerprints() == {"tokens": "N(0, 1) (1, 2, N, 32), N = 8, 32, float32"}
