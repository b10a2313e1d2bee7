"""The table of lines against the perceptron it stands for, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.attention.luna import piecewise
from sextant.methods.attention.luna.channels import LearnedChannels
from sextant.methods.attention.luna.piecewise import evaluate, grouped, locate, tabulate


def table_and_network(channels: LearnedChannels, rectified: bool, arguments: torch.Tensor):
    values = evaluate(arguments, tabulate(*channels.layers(), rectified, arguments.dtype))
    expected = channels(arguments)
    return values, expected.relu() if rectified else expected


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_values_and_gradients_are_those_of_the_perceptron(rectified, separate, dtype, tolerance):
    torch.manual_seed(0)
    channels = LearnedChannels(8, separate=separate).to(dtype)
    arguments = (2 * torch.randn(3, 7001, dtype=dtype)).requires_grad_()
    values, expected = table_and_network(channels, rectified, arguments)
    assert values.shape == (3, 7001, 8)
    gradient = torch.randn_like(values)
    wanted = [arguments, *channels.parameters()]
    for ours, theirs in zip(
        (values, *torch.autograd.grad(values, wanted, gradient)),
        (expected, *torch.autograd.grad(expected, wanted, gradient)),
        strict=True,
    ):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@given(st.integers(0, 2**31), st.integers(1, 9), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_weights_give_the_same_values(seed, hidden, rectified, separate):
    torch.manual_seed(seed)
    channels = LearnedChannels(3, hidden, separate=separate).double()
    with torch.no_grad():
        for parameter in channels.parameters():
            parameter.mul_(10 ** (2 * torch.randn(())))
            parameter[torch.rand_like(parameter) < 0.2] = 0  # dead units, knots at 0 and nowhere
    arguments = torch.cat((torch.randn(500), 1e4 * torch.randn(50))).double()
    with torch.no_grad():
        values, expected = table_and_network(channels, rectified, arguments)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e6]), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_numbers_are_located_as_a_binary_search_does(seed, spread, count):
    torch.manual_seed(seed)
    knots = (spread * torch.randn(count)).sort().values
    arguments = torch.randn(piecewise.CELLS + 100)
    arguments[:count] = knots  # ties
    expected = torch.searchsorted(knots, arguments)
    torch.testing.assert_close(locate(arguments, knots).long(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("extreme", [0.0, float("inf"), float("nan"), 3e38])
def test_extreme_numbers_are_located_too(extreme):
    knots = torch.tensor([-1.0, 0.0, 2.0])
    arguments = torch.full((piecewise.CELLS,), extreme)
    arguments[1::2] = -arguments[1::2] if extreme else 0.0
    assert torch.equal(locate(arguments, knots).long(), torch.bucketize(arguments, knots))


@pytest.mark.parametrize("n", [0, 1, 100, piecewise.RADIX_FROM // 2, piecewise.RADIX_FROM + 1])
def test_groups_are_brought_together_in_order(n):
    groups = torch.randint(0, 50, (n,), dtype=torch.int32)
    order, starts = grouped(groups, 60)
    assert starts[0] == 0
    assert starts[-1] == n
    for group in range(60):
        members = order[starts[group] : starts[group + 1]]
        assert torch.equal(members.long(), (groups == group).nonzero()[:, 0])
