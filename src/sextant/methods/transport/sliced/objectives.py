"""Objectives that train a slicer: what is descended, and how its gradient is estimated.

An objective is called with a slicer and P pairs of clouds, and returns a 0-d loss whose backward
pass reaches the slicer's parameters. A slicer maps points (..., N, d) and a context (..., c), or
None, to scores (..., N).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sextant.methods.transport.ground import Cost, known_cost
from sextant.methods.transport.sliced.losses import (
    Sort,
    check_clouds,
    hard_cost,
    known_sort,
    two_pass_loss,
)
from sextant.ranges import at_least, positive


class SoftPermutation:
    """The two-pass loss of min-STP; see `two_pass_loss`.

    Args:
        cost: "euclidean" or "sqeuclidean".
        temperature: 0.1 standard deviations of the scores; published: 5, not standardized.
        standardize: whether scores are divided by the standard deviation of both clouds together.
        both_soft: whether both clouds are sorted softly at once.
        sort: "lapsum" or "softsort".

    Raises:
        ValueError: for an unknown cost or sort, or a temperature that is not positive.
    """

    def __init__(
        self,
        cost: Cost = "euclidean",
        temperature: float = 0.1,
        standardize: bool = True,
        both_soft: bool = False,
        sort: Sort = "lapsum",
    ) -> None:
        positive(temperature=temperature)
        self.cost = known_cost(cost)
        self.temperature, self.standardize = temperature, standardize
        self.both_soft, self.sort = both_soft, known_sort(sort)

    def __call__(
        self,
        slicer: nn.Module,
        source: Tensor,
        target: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, 0-d, of source and target (P, N, d) with context (P, c) or None; no randomness.

        Raises:
            TypeError, ValueError: as `two_pass_loss`.
        """
        return two_pass_loss(
            slicer(source, context),
            slicer(target, context),
            source,
            target,
            self.cost,
            self.temperature,
            self.standardize,
            self.both_soft,
            self.sort,
        )


class ProjectedCost:
    """The control: the squared cost on the line, mean (f(x)_(k) - f(y)_(k))^2.

    It is least where all scores are equal, whatever the points cost: it teaches no matching.

    Args:
        cost: of the points, for the exams; this objective never looks at it.

    Raises:
        ValueError: for an unknown cost.
    """

    def __init__(self, cost: Cost = "euclidean") -> None:
        self.cost = known_cost(cost)

    def __call__(
        self,
        slicer: nn.Module,
        source: Tensor,
        target: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, 0-d, of source and target (P, N, d) with context (P, c) or None; no randomness.

        Raises:
            TypeError, ValueError: as `check_clouds`.
        """
        source_scores, target_scores = slicer(source, context), slicer(target, context)
        check_clouds(source_scores, target_scores, source, target)
        return (source_scores.sort(-1).values - target_scores.sort(-1).values).square().mean()


class Stein:
    """The hard cost smoothed over the slicer's parameters, by Stein's formula (DGSWP).

    The gradient of E J(theta + epsilon Z), Z standard normal over all trained parameters, is
    estimated by the mean of (J(theta + epsilon z) - J(theta)) z / epsilon over samples z. All pairs
    of clouds see the same samples. The loss has the value J(theta) and this gradient.

    Args:
        cost: "euclidean" or "sqeuclidean".
        epsilon: standard deviation of the perturbation, in the units of the parameters.
        samples: perturbations a step.

    Raises:
        ValueError: for an unknown cost, an epsilon that is not positive, or no samples.
    """

    def __init__(self, cost: Cost = "euclidean", epsilon: float = 0.05, samples: int = 10) -> None:
        positive(epsilon=epsilon)
        at_least(1, samples=samples)
        self.cost, self.epsilon, self.samples = known_cost(cost), epsilon, samples

    def __call__(
        self,
        slicer: nn.Module,
        source: Tensor,
        target: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, 0-d, of source and target (P, N, d) with context (P, c) or None.

        Args:
            generator: a CPU generator, all the randomness there is.

        Raises:
            TypeError, ValueError: as `hard_cost`; ValueError also for a slicer without parameters
                to train.
        """
        trained = {name: p for name, p in slicer.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("slicer must have parameters that require a gradient, it has none")

        def scores(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return (
                functional_call(slicer, parameters, (source, context)),
                functional_call(slicer, parameters, (target, context)),
            )

        def costs(parameters: dict[str, Tensor]) -> Tensor:
            # Of the attention kernels only this one is batched over samples.
            with sdpa_kernel(SDPBackend.MATH):
                source_scores, target_scores = vmap(scores, randomness="different")(parameters)
            count = len(source_scores)
            # Samples and pairs side by side: the hard cost is batched over both.
            return (
                hard_cost(
                    source_scores.flatten(0, 1),
                    target_scores.flatten(0, 1),
                    source.detach().repeat(count, 1, 1),
                    target.detach().repeat(count, 1, 1),
                    self.cost,
                )
                .view(count, -1)
                .mean(1)
            )

        return stein_loss(costs, trained, self.epsilon, self.samples, generator)


def stein_loss(
    costs: Callable[[dict[str, Tensor]], Tensor],
    parameters: dict[str, Tensor],
    epsilon: float,
    samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """A 0-d loss of value J(theta) whose gradient is Stein's estimate for E J(theta + epsilon Z).

    Args:
        costs: J, called once without a gradient: parameters stacked to (samples + 1, *shape) each,
            theta itself first, to costs (samples + 1,).
        parameters: theta, by name.
        epsilon: standard deviation of the perturbation.
        samples: number of standard normal Z.
        generator: a CPU generator.
    """
    with torch.no_grad():
        noise = {
            name: torch.randn(samples, *p.shape, generator=generator).to(p)
            for name, p in parameters.items()
        }
        moved = {
            name: torch.cat([p.unsqueeze(0), p + epsilon * noise[name]])
            for name, p in parameters.items()
        }
        values = costs(moved)
        weights = (values[1:] - values[0]) / (epsilon * samples)
    loss = values[0]
    for name, parameter in parameters.items():
        estimate = torch.tensordot(weights.to(parameter), noise[name], 1)
        loss = loss + (estimate * (parameter - parameter.detach())).sum()
    return loss
