"""Small networks and batches the flow tests share."""

import pytest
import torch
from torch import nn

from sextant.methods.backbones.velocity import VelocityMLP


class ConvVelocity(nn.Module):
    """A velocity network on (n, 2, 4, 4) without a tangent pass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.0)
        self.outer = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, z, t, h, labels=None):
        times = torch.stack((t, h), 1)[:, :, None, None].expand(-1, -1, *z.shape[2:])
        hidden = torch.nn.functional.gelu(self.norm(self.inner(torch.cat((z, times), 1))))
        return self.outer(self.drop(hidden))


class Wrapped(nn.Module):
    """The same network with its own tangent pass hidden."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, z, t, h, labels=None):
        return self.network(z, t, h, labels)


@pytest.fixture
def wrapped():
    return Wrapped


@pytest.fixture(params=["vector", "labelled", "deep", "conv"])
def network_and_batch(request):
    """(network, source, target, r, t, labels) in float64, for every kind of network."""
    torch.manual_seed(3)
    n, labels, shape = 5, None, (3,)
    if request.param == "vector":
        network = VelocityMLP(3, 16, 2, 3)
    elif request.param == "labelled":
        network, labels = VelocityMLP(3, 16, 3, 4, classes=4, class_width=5), torch.arange(n) % 4
    elif request.param == "deep":
        network = VelocityMLP(3, 7, 5, 1)
    else:
        network, shape = ConvVelocity(), (2, 4, 4)
    source, target = torch.randn(2, n, *shape, dtype=torch.float64)
    t = torch.rand(n, dtype=torch.float64)
    r = t * torch.rand(n, dtype=torch.float64)
    r[1] = t[1]
    return network.double(), source, target, r, t, labels
