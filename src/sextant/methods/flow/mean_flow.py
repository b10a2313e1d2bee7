"""Mean flows: the average velocity as a regression problem (arXiv 2505.13447, 2509.22592).

u(z, r, t) is the mean of the marginal velocity over [r, t] along its trajectory, and satisfies

    u(z, r, t) = v(z, t) - (t - r) d/dt u(z, r, t),     d/dt u = (d_z u) v + d_t u.

Training puts the conditional velocity of a pair in the place of v and stops the gradient of the
right-hand side. Nothing here asks how source and data were paired, so the transport-based mean
flow is this objective with another coupling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sextant.methods.flow.paths import align, conditional_velocity, interpolate
from sextant.methods.numerics import check_not_half, widened


def velocity_and_derivative(
    network: nn.Module,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    velocity: Tensor,
    labels: Tensor | None = None,
    two_passes: bool = False,
) -> tuple[Tensor, Tensor]:
    """u(z, r, t), with a graph, and d/dt u along the trajectory, without one.

    The derivative is the directional derivative of (z, r, t) -> u with tangents (velocity, 0, 1).
    It is computed in the precision of z whatever autocast says, because a tangent in bfloat16 is
    off in the third digit.

    Args:
        network: called as network(z, t, h, labels) with h = t - r. One that offers
            `forward_with_tangent` is asked for both values at once, any other goes through
            `torch.func.jvp`.
        z: (n, *shape).
        r: (n,), and t: (n,).
        velocity: (n, *shape), the tangent of z.
        labels: (n,) or None.
        two_passes: u in a pass of its own, so that the tangent's graph is never kept: less memory
            for more time, same gradients. Ignored where the network has its own tangent pass.

    Raises:
        TypeError: for a network in half precision.
    """
    check_not_half(network, "network")
    z, r, t, velocity = (widened(one) for one in (z, r, t, velocity))

    def average_velocity(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return network(z, t, t - r, labels)

    with torch.autocast(z.device.type, enabled=False):
        one = torch.ones_like(t)
        own_pass: Any = getattr(network, "forward_with_tangent", None)
        if own_pass is not None:
            return own_pass(z, t, t - r, labels, velocity, one, one)
        primals, tangents = (z, r, t), (velocity, torch.zeros_like(r), one)
        if two_passes:
            u = average_velocity(*primals)
            with torch.no_grad():
                return u, torch.func.jvp(average_velocity, primals, tangents)[1]
        u, derivative = torch.func.jvp(average_velocity, primals, tangents)
        return u, derivative.detach()


def regression_target(velocity: Tensor, derivative: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """velocity - (t - r) d/dt u, the right-hand side of the identity, without a graph."""
    velocity, derivative = widened(velocity), widened(derivative)
    return (velocity - align(widened(t) - widened(r), velocity) * derivative).detach()


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """||prediction - target||^2 summed over everything but the batch: (n, *shape) to (n,)."""
    return (widened(prediction) - widened(target)).square().flatten(1).sum(1)


def adaptive_weight(error: Tensor, power: float, offset: float) -> Tensor:
    """(error + offset)^-power without a graph; error (n,) is the squared error of each row.

    Power 0 is the plain squared loss; power 1 makes every row's loss error / (error + offset),
    which lies in [0, 1) and says nothing about progress: watch the raw error.
    """
    return (widened(error.detach()) + offset).pow(-power)


def mean_flow_loss(
    network: nn.Module,
    source: Tensor,
    target: Tensor,
    r: Tensor,
    t: Tensor,
    labels: Tensor | None = None,
    weight_power: float = 1.0,
    weight_offset: float = 1e-3,
    two_passes: bool = False,
) -> tuple[Tensor, Tensor]:
    """The weighted loss, a scalar with a graph, and the raw mean squared error, without one.

    Args:
        network: see `velocity_and_derivative`.
        source: (n, *shape), paired row by row with target (n, *shape).
        r: (n,), and t: (n,), 0 <= r <= t <= 1.
        labels: (n,) labels of target, or None.
        weight_power: p of the weight (error + c)^-p.
        weight_offset: c of the weight.
        two_passes: see `velocity_and_derivative`.
    """
    r, t = widened(r), widened(t)
    z, velocity = interpolate(source, target, t), conditional_velocity(source, target)
    u, derivative = velocity_and_derivative(network, z, r, t, velocity, labels, two_passes)
    error = squared_error(u, regression_target(velocity, derivative, r, t))
    loss = (error * adaptive_weight(error, weight_power, weight_offset)).mean()
    return loss, error.detach().mean()
