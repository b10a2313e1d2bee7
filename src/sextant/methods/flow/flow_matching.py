"""Conditional flow matching (arXiv 2210.02747, 2302.00482) with the network of a mean flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sextant.methods.flow.mean_flow import squared_error
from sextant.methods.flow.paths import conditional_velocity, interpolate
from sextant.methods.numerics import check_not_half, widened


def flow_matching_loss(
    network: nn.Module,
    source: Tensor,
    target: Tensor,
    t: Tensor,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean of ||network(z_t, t, h=0) - (source - target)||^2, with a graph and without.

    Args:
        network: called as network(z, t, h, labels).
        source: (n, *shape), paired row by row with target (n, *shape).
        t: (n,) times, 1 at the source.
        labels: (n,) labels of target, or None.

    Raises:
        TypeError: for a network in half precision.
    """
    check_not_half(network, "network")
    t = widened(t)
    velocity = network(interpolate(source, target, t), t, torch.zeros_like(t), labels)
    loss = squared_error(velocity, conditional_velocity(source, target)).mean()
    return loss, loss.detach()
