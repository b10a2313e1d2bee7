"""What holds for every attention beside LUNA, whatever its formula."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sextant.methods import attention as package
from sextant.methods.attention.base import Attention

H, D, V, LENGTH = 2, 6, 6, 40
SMALL = {"features": 4, "block": 4, "chunk": 4, "pivots": 5, "random_blocks": 1, "iterations": 8}
"""Budgets small enough that nothing is exact only because there is little to approximate."""


def classes(modules):
    found = {}
    for entry in modules:
        module = importlib.import_module(entry.name)
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and issubclass(value, Attention) and value is not Attention:
                found[name] = value
    return found


PREFIX = f"{package.__name__}."
CLASSES = classes(
    entry for entry in pkgutil.iter_modules(package.__path__, PREFIX) if not entry.ispkg
)
WITH_LUNA = classes(pkgutil.walk_packages(package.__path__, PREFIX))


def build(name, length=LENGTH, seed=0, **changes):
    torch.manual_seed(seed)
    accepted = inspect.signature(CLASSES[name]).parameters
    settings_ = {key: value for key, value in SMALL.items() if key in accepted} | changes
    return CLASSES[name](heads=H, head_dimension=D, length=length, **settings_).eval()


def drawn(batch=2, number=24, dtype=torch.float64, seed=1):
    torch.manual_seed(seed)
    return [torch.randn(batch, H, number, width, dtype=dtype) for width in (D, D, V)]


every = pytest.mark.parametrize("name", sorted(CLASSES))


QUADRATIC = {name for name, found in CLASSES.items() if found.quadratic}


def masked_by(*kinds):
    return sorted(name for name, found in CLASSES.items() if found.masking in kinds)


@pytest.mark.parametrize("name", sorted(WITH_LUNA))
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_without_keys_the_answer_is_0_and_without_queries_empty(name, mask, training):
    accepted = inspect.signature(WITH_LUNA[name]).parameters
    chosen = {key: value for key, value in SMALL.items() if key in accepted and key != "features"}
    attention = WITH_LUNA[name](heads=H, head_dimension=D, length=LENGTH, **chosen).train(training)
    queries, keys, values = drawn(number=5, dtype=torch.float32)
    seen = torch.ones(2, 5, dtype=torch.bool) if mask else None
    unseen = torch.ones(2, 0, dtype=torch.bool) if mask else None
    nothing = attention(queries, keys[:, :, :0], values[:, :, :0], unseen)
    assert torch.equal(nothing, torch.zeros_like(queries[..., :V]))
    assert attention(queries[:, :, :0], keys, values, seen).shape == (2, H, 0, V)
    assert attention(queries[:0], keys[:0], values[:0]).shape == (0, H, 5, V)


@every
def test_shape_and_dtype(name):
    queries, keys, values = drawn(number=23, dtype=torch.float32)
    output = build(name)(queries, keys, values)
    assert output.shape == (2, H, 23, V)
    assert output.dtype == torch.float32
    assert output.isfinite().all()


@pytest.mark.parametrize("name", masked_by("anywhere", "at the end"))
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_mask_is_like_deleting(name, data):
    number = 24
    if CLASSES[name].masking == "anywhere":
        mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=number, max_size=number)))
        mask[: data.draw(st.integers(6, 9))] = True
        mask = mask[torch.randperm(number, generator=torch.Generator().manual_seed(0))]
    else:
        mask = torch.arange(number) < data.draw(st.integers(1, number))
    attend = build(name).double()
    rows = drawn(batch=1, number=number, seed=data.draw(st.integers(0, 1000)))
    # What a query of a masked token gets does not matter; what it holds must not matter either.
    found = attend(*rows, mask[None])[:, :, mask]
    torch.testing.assert_close(found, attend(*(row[:, :, mask] for row in rows)))


@pytest.mark.parametrize("name", masked_by("anywhere"))
def test_queries_of_other_tokens_than_the_keys(name):
    """With fewer queries than keys the mask is of keys alone, and all queries are real."""
    attend = build(name).double()
    queries, keys, values = drawn(batch=1)
    queries, mask = queries[:, :, :9], torch.rand(24) < 0.6
    found = attend(queries, keys, values, mask[None])
    torch.testing.assert_close(found, attend(queries, keys[:, :, mask], values[:, :, mask]))


@every
def test_masked_rows_do_not_matter(name):
    attend = build(name).double()
    queries, keys, values = drawn()
    mask = torch.rand(2, 24) < 0.6
    expected = attend(queries, keys, values, mask)
    masked = ~mask[:, None, :, None].expand(-1, H, -1, -1)
    wild = [row.masked_fill(masked, 1e4) for row in (queries, keys, values)]
    found = attend(*wild, mask)
    kept = mask[:, None, :].expand(-1, H, -1)
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-12)
    assert found.isfinite().all()
    assert not torch.allclose(expected[kept], attend(queries, keys, values)[kept], rtol=1e-3)


@every
def test_nothing_real_gives_0(name):
    attend = build(name)
    rows = [row.requires_grad_() for row in drawn(dtype=torch.float32)]
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[0] = False
    output = attend(*rows, mask)
    assert torch.equal(output[0], torch.zeros_like(output[0]))
    assert output[1].abs().amax() > 0
    output.square().sum().backward()
    leaves = [*rows, *attend.parameters()]
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)


@every
def test_batch_entries_do_not_see_each_other(name):
    attend = build(name).double()
    rows = drawn()
    rows[0][1] *= 3
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[1, 15:] = False
    together = attend(*rows, mask)
    for entry in range(2):
        alone = attend(*(row[entry : entry + 1] for row in rows), mask[entry : entry + 1])
        torch.testing.assert_close(together[entry : entry + 1], alone)


@every
def test_half_precision_stays_outside(name):
    attend = build(name)
    rows = drawn(dtype=torch.float32)
    halves = [row.bfloat16() for row in rows]
    expected = attend(*(half.float() for half in halves))
    found = attend(*halves)
    assert found.dtype == torch.bfloat16
    # All but the fused softmax compute in float32: the only rounding is that of the output.
    tolerance = 0.02 if name == "SoftmaxAttention" else 0.0
    torch.testing.assert_close(
        found.float(), expected.bfloat16().float(), rtol=tolerance, atol=tolerance
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = attend(*rows)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, attend(*rows), rtol=0, atol=0)


@every
def test_gradients_reach_everything(name):
    attend = build(name).train()
    rows = [row.requires_grad_() for row in drawn()]
    attend.double()(*rows).square().sum().backward()
    for parameter in attend.parameters():
        assert parameter.grad.abs().sum() > 0
    for place, row in zip(("queries", "keys", "values"), rows, strict=True):
        if place in (*attend.learns_through, "values"):
            assert row.grad.abs().sum() > 0
        else:
            assert row.grad is None


@every
def test_state_is_complete(name):
    rows = drawn(dtype=torch.float32)
    first, second = build(name, seed=0), build(name, seed=1)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = first(*rows)
    states = first.state_dict(), second.state_dict()
    same = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(expected, second(*rows)) == same
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(*rows), expected)


@every
def test_reset_draws_from_the_global_generator(name):
    attend = build(name, seed=3)
    before = {key: value.clone() for key, value in attend.state_dict().items()}
    with torch.no_grad():
        for value in attend.state_dict().values():
            value.add_(1.0)
    torch.manual_seed(3)
    attend.reset_parameters()
    for key, value in attend.state_dict().items():
        assert torch.equal(value, before[key])


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made inside holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.numbers = max(self.numbers, stored)
        return made


def largest_tensor(name, number):
    # With chunks of 4 tokens the columns of Reformer's hashes would count, of which there are about
    # sqrt(number / chunk); and ESP has matrices where its spectrum is longer than half the tokens.
    wider = {
        "ReformerAttention": {"chunk": 16},
        "BigBirdAttention": {"block": 16},
        "ESPAttention": {"temperature": 0.1},
    }.get(name, {})
    attend = build(name, length=number, **wider).train()
    rows = [row.requires_grad_() for row in drawn(batch=1, number=number, dtype=torch.float32)]
    mask = torch.arange(number)[None] < number - 5
    with LargestTensor() as seen:
        attend(*rows, mask).sum().backward()
    return seen.numbers


@pytest.mark.parametrize(
    "name", sorted(set(CLASSES) - {k for k, v in CLASSES.items() if v.quadratic})
)
def test_memory_grows_linearly(name):
    short, long = largest_tensor(name, 256), largest_tensor(name, 1024)
    assert long < 1024 * 1024 / 4
    # Four times the tokens: 16 times would be quadratic, and Informer takes N ln N.
    assert long <= 5 * short


@pytest.mark.parametrize("name", sorted(QUADRATIC))
def test_the_others_are_documented_as_quadratic(name):
    assert largest_tensor(name, 512) >= 512 * 512
    assert "O(N M) memory" in CLASSES[name].__doc__


@pytest.mark.parametrize("name", sorted(WITH_LUNA))
def test_cost_and_source_are_documented(name):
    text = WITH_LUNA[name].__doc__
    assert " time" in text
    assert "memory" in text
    assert "arXiv" in text or "et al." in text
