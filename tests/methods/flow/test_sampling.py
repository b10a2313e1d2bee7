import pytest
import torch

from sextant.methods.flow.sampling import sample


class Recorder:
    """A constant velocity that remembers what it was asked."""

    def __init__(self, velocity=1.0) -> None:
        self.velocity, self.calls = velocity, []

    def __call__(self, z, t, h, labels):
        assert t.shape == h.shape == (len(z),)
        self.calls.append((t[0].item(), h[0].item(), labels))
        return torch.full_like(z, self.velocity)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("averages", [True, False])
def test_calls_times_and_direction(steps, averages):
    network, source = Recorder(), torch.zeros(3, 2, 2, dtype=torch.float64)
    labels = torch.arange(3)
    found = sample(network, source, steps, labels, averages)
    assert len(network.calls) == steps
    for k, (t, h, asked) in enumerate(network.calls):
        assert t == pytest.approx(1 - k / steps, abs=1e-12)
        assert h == pytest.approx(1 / steps if averages else 0.0, abs=1e-12)
        assert asked is labels
    torch.testing.assert_close(found, source - 1.0, rtol=0, atol=1e-12)
    assert torch.equal(source, torch.zeros_like(source))


def test_euler_is_first_order():
    """dz/dt = z from t = 1 to 0 shrinks by e; Euler's error halves with the step."""
    source = torch.ones(1, 1, dtype=torch.float64)
    errors = [
        abs(sample(lambda z, t, h, labels: z, source, steps, averages=False).item() - 0.36787944117)
        for steps in (64, 128)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sample(Recorder(), torch.zeros(1, 1), 0)
