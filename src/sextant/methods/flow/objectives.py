"""The training objectives a config can name.

An objective is called as `objective(network, source, target, labels, generator)` with samples that
are already paired, draws its own times from `generator` and returns (loss, raw squared error).
`averages` says what the trained network gives the sampler: the average velocity over a step, or
the velocity at its beginning.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Generator, Tensor, nn

from sextant.methods.flow.flow_matching import flow_matching_loss
from sextant.methods.flow.mean_flow import mean_flow_loss
from sextant.methods.flow.times import TimeLaw, Uniform, draw_intervals
from sextant.methods.numerics import widened
from sextant.ranges import not_negative, positive, within


class Objective(Protocol):
    """What a `FlowModule` trains."""

    averages: ClassVar[bool]

    def __call__(
        self,
        network: nn.Module,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]: ...


class FlowMatching:
    """Squared error of the velocity; `times` is the law of t (uniform by default)."""

    averages: ClassVar[bool] = False

    def __init__(self, times: TimeLaw | None = None) -> None:
        self.times = times or Uniform()

    def __call__(
        self,
        network: nn.Module,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        source, target = widened(source), widened(target)
        t = self.times(len(source), generator).to(source)
        return flow_matching_loss(network, source, target, t, labels)


class MeanFlow:
    """Weighted squared error of the average velocity.

    Args:
        share_r_below_t: chance of r < t; on the other rows r = t and the row is flow matching.
        times: law of the two times (uniform by default).
        weight_power: p of the weight (error + c)^-p; 1 for vectors and ImageNet, .75 for CIFAR.
        weight_offset: c of the weight.
        two_passes: see `sextant.methods.flow.mean_flow.velocity_and_derivative`.

    Raises:
        ValueError: for a share outside [0, 1], a negative power or an offset that is not positive.
    """

    averages: ClassVar[bool] = True

    def __init__(
        self,
        share_r_below_t: float = 0.75,
        times: TimeLaw | None = None,
        weight_power: float = 1.0,
        weight_offset: float = 1e-3,
        two_passes: bool = False,
    ) -> None:
        within("[0, 1]", share_r_below_t=share_r_below_t)
        not_negative(weight_power=weight_power)
        positive(weight_offset=weight_offset)
        self.share_r_below_t, self.times = share_r_below_t, times or Uniform()
        self.weight_power, self.weight_offset = weight_power, weight_offset
        self.two_passes = two_passes

    def __call__(
        self,
        network: nn.Module,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        source, target = widened(source), widened(target)
        r, t = draw_intervals(self.times, self.share_r_below_t, len(source), generator)
        return mean_flow_loss(
            network,
            source,
            target,
            r.to(source),
            t.to(source),
            labels,
            self.weight_power,
            self.weight_offset,
            self.two_passes,
        )
