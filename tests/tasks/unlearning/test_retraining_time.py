import time

import pytest
import torch
from torch import nn

from tasks.unlearning.timing import training_seconds


class Slow(nn.Linear):
    """A layer that keeps the processor busy for a known time in every forward pass."""

    calls = 0

    def forward(self, inputs):
        self.calls += 1
        begin = time.process_time()
        while time.process_time() - begin < 0.02:
            pass
        return super().forward(inputs)


def test_the_time_of_all_steps_is_that_of_one_times_their_number():
    network = Slow(3, 2).eval()
    before = network.weight.clone()
    inputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    assert 20.0 <= training_seconds(network, inputs, labels, steps=1000, timed=3) < 200.0
    assert torch.equal(network.weight, before)
    assert not network.training


def test_it_needs_a_step():
    with pytest.raises(ValueError, match="timed must be at least 1, got 0"):
        training_seconds(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1).long(), 10, timed=0)
