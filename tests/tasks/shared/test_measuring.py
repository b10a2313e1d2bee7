"""Measured quantities against what is known of the functions that are measured."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tasks.shared import measuring
from tasks.shared.measuring import (
    crossing,
    log_slope,
    out_of_memory,
    peak_bytes,
    saved_bytes,
    times,
)
from tasks.shared.scoring import one_thread

POWERS = st.floats(-3, 3)


class Clock:
    """A time that only calls move on."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(measuring, "clock", lambda device: self.now)

    def call(self, name, *seconds):
        left = list(seconds)

        def spend():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return spend


@given(POWERS, st.floats(1e-3, 1e3), st.integers(2, 8))
def test_the_slope_of_a_power_is_its_exponent(power, scale, count):
    lengths = [256 * 2**k for k in range(count)]
    assert log_slope(lengths, [scale * n**power for n in lengths]) == pytest.approx(power, abs=1e-6)


def test_a_slope_needs_two_positive_costs():
    with pytest.raises(ValueError, match="lengths must be at least 2"):
        log_slope([256], [1.0])
    with pytest.raises(ValueError, match="costs must be positive, got 0"):
        log_slope([256, 512], [1.0, 0.0])


def test_a_dense_attention_has_slope_two_and_a_linear_one_slope_one_in_operations():
    def operations(attend, n):
        tensors = [torch.randn(1, 2, n, 8, requires_grad=True) for _ in range(3)]
        with FlopCounterMode(display=False) as counter:
            measuring.both_passes(attend, tensors)
        assert all(tensor.grad is None for tensor in tensors)
        return counter.get_total_flops()

    lengths = [64, 128, 256, 512]
    dense = [operations(lambda q, k, v: (q @ k.mT).softmax(-1) @ v, n) for n in lengths]
    linear = [operations(lambda q, k, v: q.exp() @ (k.exp().mT @ v), n) for n in lengths]
    assert log_slope(lengths, dense) == pytest.approx(2, abs=1e-6)
    assert log_slope(lengths, linear) == pytest.approx(1, abs=1e-6)


@given(st.floats(0.2, 2), st.floats(300, 15000))
def test_powers_cross_where_they_are_equal(power, place):
    lengths = [256 * 2**k for k in range(7)]
    ratios = [(n / place) ** power for n in lengths]
    assert crossing(lengths, ratios) == pytest.approx(place, rel=1e-6)


def test_a_crossing_is_the_last_one_and_may_be_missing():
    assert crossing([1, 2, 4, 8], [2.0, 0.5, 2.0, 3.0]) == pytest.approx(2 * math.sqrt(2))
    assert crossing([1, 2, 4], [1.5, 2.0, 3.0]) is None
    assert crossing([1, 2, 4], [0.5, 2.0, 0.9]) is None
    assert crossing([1, 2], [0.5, 1.0]) == pytest.approx(2)


def test_calls_take_turns_and_quick_ones_are_warmed_up(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"quick": clock.call("quick", 0.01), "slow": clock.call("slow", 0.3)}
    found = times(calls, "cpu", seconds=0.5, most=3)
    assert found == {"quick": pytest.approx([0.01] * 3), "slow": pytest.approx([0.3] * 3)}
    turn = ["quick", "quick", "slow"]
    assert clock.log == ["quick", "slow", *turn, *turn, *turn]


def test_a_call_leaves_when_its_seconds_or_its_times_are_full(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"short": clock.call("short", 0.2), "long": clock.call("long", 0.45)}
    found = times(calls, "cpu", seconds=1.5, most=5)
    assert {name: len(spent) for name, spent in found.items()} == {"short": 5, "long": 4}
    assert clock.log == ["short", "long"] * 5 + ["short"]


def test_a_first_call_never_counts_and_three_others_do(monkeypatch):
    clock = Clock(monkeypatch)
    # The cold first call alone is longer than all seconds that are asked for.
    calls = {"own": clock.call("own", 9.0, 1.0), "other": clock.call("other", 5.0, 2.0)}
    found = times(calls, "cpu", seconds=0.5, most=15)
    assert found == {"own": pytest.approx([1.0] * 3), "other": pytest.approx([2.0] * 3)}
    assert clock.log == ["own", "other"] * 4


def test_too_few_times_are_refused():
    with pytest.raises(ValueError, match="most must be at least 3, got 2"):
        times({"call": lambda: None}, "cpu", seconds=1.0, most=2)


def test_the_processor_time_of_a_sleep_is_small():
    import time

    start = measuring.clock("cpu")
    time.sleep(0.2)
    assert measuring.clock("cpu") - start < 0.1


def test_what_products_keep_is_their_factors():
    x, y = (torch.randn(1000, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: x * x) == 4000
    assert saved_bytes(lambda: x * y) == 8000
    assert saved_bytes(lambda: x + y) == 0
    assert saved_bytes(lambda: (x.view(10, 100) * x.view(10, 100).flip(0)).exp()) == 12000


def test_views_count_with_their_whole_storage():
    x = torch.randn(1000, requires_grad=True)
    assert saved_bytes(lambda: x[:10] * x[10:20]) == 4000


def test_parameters_and_buffers_do_not_count():
    layer, x = nn.Linear(20, 30), torch.randn(50, 20, requires_grad=True)
    batch = nn.BatchNorm1d(20).eval()
    assert saved_bytes(lambda: layer(x), layer) == 50 * 20 * 4
    assert saved_bytes(lambda: layer(x)) == 50 * 20 * 4 + 20 * 30 * 4
    assert saved_bytes(lambda: batch(x), batch) <= 50 * 20 * 4 + 2 * 20 * 4


def test_a_checkpoint_keeps_only_what_comes_in():
    x = torch.randn(1000, requires_grad=True)

    def chain(z):
        return z.sin().exp().sin()

    kept = saved_bytes(lambda: checkpoint(chain, x, use_reentrant=False))
    # A sine keeps what comes in, an exponential what goes out: x, and one number for both others.
    assert saved_bytes(lambda: chain(x)) == 8000
    assert kept == 4000


def test_the_peak_is_what_lives_at_once():
    def call():
        first = torch.empty(100_000)
        second = first + 1
        del first
        return second * 2

    size = 400_000
    assert peak_bytes(call, "cpu") == pytest.approx(2 * size, rel=1e-3)
    assert peak_bytes(lambda: None, "cpu") == 0
    kept = torch.empty(100_000)
    assert peak_bytes(lambda: kept.mul_(2), "cpu") < 1000


def test_the_peak_of_both_passes_of_a_dense_attention_is_quadratic():
    def attend(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    peaks = []
    for n in (256, 512, 1024):
        tensors = [torch.randn(1, 1, n, 4, requires_grad=True) for _ in range(3)]
        peaks.append(peak_bytes(lambda on=tensors: measuring.both_passes(attend, on), "cpu"))
        assert 2 * 4 * n * n < peaks[-1] < 5 * 4 * n * n
    assert log_slope((256, 512, 1024), peaks) == pytest.approx(2, abs=0.1)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_errors_of_memory_are_told_from_others():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError())
    assert not out_of_memory(RuntimeError("shapes differ"))
    assert not out_of_memory(ValueError("can't allocate memory"))
