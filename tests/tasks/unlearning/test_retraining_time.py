from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tasks.unlearning import timing
from tasks.unlearning.timing import training_seconds


class Slow(nn.Linear):
    """A layer that lets a clock go on by a known time in every forward pass."""

    def __init__(self, durations):
        super().__init__(3, 2)
        self.durations, self.now = iter(durations), [0.0]

    def forward(self, inputs):
        self.now[0] += next(self.durations)
        return super().forward(inputs)

    def __deepcopy__(self, memo):
        copied = Slow(())
        copied.load_state_dict(self.state_dict())
        copied.durations, copied.now = self.durations, self.now
        return copied


def test_the_time_of_all_steps_is_the_median_of_some_times_their_number(monkeypatch):
    """The first step, which warms up, and one that was held up count for nothing."""
    network = Slow([5.0, 0.02, 0.05, 0.03, 7.0, 0.01]).eval()
    clock = SimpleNamespace(process_time=lambda: network.now[0])
    monkeypatch.setattr(timing, "time", clock)
    before = network.weight.clone()
    inputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    assert training_seconds(network, inputs, labels, steps=1000, timed=5) == pytest.approx(30.0)
    assert torch.equal(network.weight, before)
    assert not network.training


def test_a_step_takes_some_time():
    inputs, labels = torch.randn(64, 3), torch.zeros(64, dtype=torch.int64)
    network = nn.Sequential(nn.Linear(3, 500), nn.ReLU(), nn.Linear(500, 2))
    assert training_seconds(network, inputs, labels, steps=100) > 0.0


def test_it_needs_a_step():
    with pytest.raises(ValueError, match="timed must be at least 1, got 0"):
        training_seconds(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1).long(), 10, timed=0)
