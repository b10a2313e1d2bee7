import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.flow.paths import align, conditional_velocity, interpolate


def test_paths_equal_torchcfm_with_its_time_reversed():
    torchcfm = pytest.importorskip("torchcfm")
    torch.manual_seed(0)
    source, target = torch.randn(2, 16, 3, 2, dtype=torch.float64)
    t = torch.rand(16, dtype=torch.float64)
    oracle = torchcfm.ConditionalFlowMatcher(sigma=0.0)
    _, place, flow = oracle.sample_location_and_conditional_flow(source, target, t=1.0 - t)
    torch.testing.assert_close(interpolate(source, target, t), place, rtol=0, atol=1e-14)
    torch.testing.assert_close(conditional_velocity(source, target), -flow, rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_ends_and_slope(n, shape):
    source, target = torch.randn(2, n, *shape, dtype=torch.float64)
    zero, one = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    assert torch.equal(interpolate(source, target, zero), target)
    assert torch.equal(interpolate(source, target, one), source)
    t = torch.rand(n, dtype=torch.float64) / 2
    slope = (interpolate(source, target, t + 0.5) - interpolate(source, target, t)) / 0.5
    torch.testing.assert_close(slope, conditional_velocity(source, target))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="one a sample"):
        align(torch.rand(3), torch.rand(4, 2))
    with pytest.raises(ValueError, match="one a sample"):
        align(torch.rand(4, 1), torch.rand(4, 2))
    with pytest.raises(ValueError, match="one shape"):
        interpolate(torch.rand(4, 2), torch.rand(4, 1), torch.rand(4))
