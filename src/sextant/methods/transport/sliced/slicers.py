"""Slicers: scalar functions that order the points of a cloud (arXiv 2511.19741).

A slicer is called as slicer(points (..., N, d), context (..., c) or None) and returns one score a
point, (..., N). Only the order of the scores matters for a transport plan.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sextant.methods.backbones.set_transformer import SetTransformer
from sextant.methods.numerics import evaluating, outside_autocast
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.lifted import lifted_plan
from sextant.ranges import at_least


class Slicer(nn.Module):
    """What the slicers share: the size of their points and of their context.

    Args:
        dimension: coordinates d of a point.
        context_width: numbers c in a context; 0 makes a slicer that takes none.

    Raises:
        ValueError: for a dimension below 1 or a negative context width.
    """

    def __init__(self, dimension: int, context_width: int = 0) -> None:
        super().__init__()
        at_least(1, dimension=dimension)
        if context_width < 0:
            raise ValueError(f"context_width must be 0 (no context) or more, got {context_width}")
        self.dimension, self.context_width = dimension, context_width

    def reset_parameters(self) -> None:
        """Draws fresh initial weights from torch's global generator."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()

    def inputs(self, points: Tensor, context: Tensor | None) -> Tensor:
        """Points (..., N, d) with the context (..., c) appended to each: (..., N, d + c).

        Raises:
            ValueError: for points of another dimension, and for a context that is missing, not
                expected or of another shape.
        """
        if points.ndim < 2 or points.shape[-1] != self.dimension:
            raise ValueError(
                f"points must have shape (..., N, {self.dimension}), got {tuple(points.shape)}"
            )
        if self.context_width == 0:
            if context is not None:
                raise ValueError("context must be None for a slicer without context, got a tensor")
            return points
        wanted = (*points.shape[:-2], self.context_width)
        if context is None or context.shape != wanted:
            found = None if context is None else tuple(context.shape)
            raise ValueError(f"context must have shape {wanted}, one a cloud, got {found}")
        rows = context[..., None, :].expand(*points.shape[:-1], self.context_width)
        return torch.cat((points, rows), dim=-1)


class LinearSlicer(Slicer):
    """f(x) = <weight, x>: the slicer of min-SWGG. It takes no context.

    A bias, or a context added to the scores, would shift both clouds alike and change no order.

    Args:
        dimension: coordinates d of a point.

    Raises:
        ValueError: for a dimension below 1.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.layer = nn.Linear(dimension, 1, bias=False)

    def forward(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """Points (..., N, d) to scores (..., N).

        Raises:
            ValueError: as `Slicer.inputs`.
        """
        return self.layer(self.inputs(points, context)).squeeze(-1)


class SineMLP(Slicer):
    """A perceptron with sine activations and a linear head; a fixed field on R^d.

    With skips a hidden layer is h <- sin(W h + b) + h, where h passes through a linear projection
    (without bias) if its width changes.

    Args:
        dimension: coordinates d of a point.
        hidden: widths of the hidden layers; [64, 128, 128, 64] is the paper's for the plane,
            [256, 512, 256] the one for clouds in space.
        skips: whether each hidden layer adds its input.
        context_width: numbers c in a context; 0 makes a slicer that takes none.

    Raises:
        ValueError: for sizes that are not positive (`context_width` may be 0), or no hidden layer.
    """

    def __init__(
        self,
        dimension: int,
        hidden: Sequence[int] = (64, 128, 128, 64),
        skips: bool = True,
        context_width: int = 0,
    ) -> None:
        super().__init__(dimension, context_width)
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {list(hidden)}")
        widths = list(itertools.pairwise((dimension + context_width, *hidden)))
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in widths)
        self.skips = nn.ModuleList(
            nn.Identity() if narrow == wide else nn.Linear(narrow, wide, bias=False)
            for narrow, wide in (widths if skips else [])
        )
        self.head = nn.Linear(hidden[-1], 1)

    def forward(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """Points (..., N, d) and context (..., c) or None to scores (..., N).

        Raises:
            ValueError: as `Slicer.inputs`.
        """
        hidden = self.inputs(points, context)
        for layer, skip in itertools.zip_longest(self.layers, self.skips):
            active = torch.sin(layer(hidden))
            hidden = active if skip is None else active + skip(hidden)
        return self.head(hidden).squeeze(-1)


class SetTransformerSlicer(Slicer):
    """A set transformer with one score a point; the cloud is the attention set.

    Permuting a cloud permutes its scores. Each score depends on the whole cloud, so source and
    target of a pair in effect get different functions, and a minibatch another one than the cloud.

    Args:
        dimension: coordinates d of a point.
        width: channels; 64 is the paper's for the plane, 256 for clouds in space.
        heads: number of attention heads.
        inducing: learned queries of each induced block.
        context_width: numbers c in a context; 0 makes a slicer that takes none.

    Raises:
        ValueError: for sizes that are not positive (`context_width` may be 0), or a width that is
            no multiple of `heads`.
    """

    def __init__(
        self,
        dimension: int,
        width: int = 64,
        heads: int = 4,
        inducing: int = 16,
        context_width: int = 0,
    ) -> None:
        super().__init__(dimension, context_width)
        self.body = SetTransformer(dimension + context_width, 1, width, heads, inducing)

    def reset_parameters(self) -> None:
        """Draws fresh initial weights from torch's global generator."""
        self.body.reset_parameters()

    def forward(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """Clouds (..., N, d) and context (..., c) or None to scores (..., N).

        Raises:
            ValueError: as `Slicer.inputs`.
        """
        return self.body(self.inputs(points, context)).squeeze(-1)


class ConditionedSlicer(nn.Module):
    """A slicer whose context is a learned linear map of a longer code.

    Args:
        slicer: takes contexts of `context_width` numbers.
        code_width: numbers in a code.
        context_width: numbers in the context it is mapped to.

    Raises:
        ValueError: for a code without numbers, or a slicer that takes contexts of another width.
    """

    def __init__(self, slicer: nn.Module, code_width: int, context_width: int = 3) -> None:
        super().__init__()
        at_least(1, code_width=code_width)
        taken = getattr(slicer, "context_width", context_width)
        if taken != context_width or context_width < 1:
            raise ValueError(
                f"context_width must be the {taken} numbers the slicer takes as context and at "
                f"least 1, got {context_width}"
            )
        self.slicer = slicer
        self.dimension, self.context_width = slicer.dimension, code_width
        self.projection = nn.Linear(code_width, context_width)

    def reset_parameters(self) -> None:
        """Draws fresh initial weights from torch's global generator."""
        self.slicer.reset_parameters()
        self.projection.reset_parameters()

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        """Points (..., N, d) and codes (..., code_width) to scores (..., N)."""
        return self.slicer(points, self.projection(context))


def draw_weights(slicer: nn.Module, generator: torch.Generator) -> None:
    """Gives a slicer fresh initial weights that depend on the generator's seed alone.

    They are drawn on the CPU, so every device gets the same ones, and torch's global generator is
    left as it was.

    Args:
        slicer: has `reset_parameters()`, which draws from the global generator.
        generator: its initial seed is taken; nothing is drawn from it.
    """
    fresh = copy.deepcopy(slicer).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())
        fresh.reset_parameters()
    slicer.load_state_dict(fresh.state_dict())


@torch.no_grad()
def set_weights(slicer: nn.Module, weights: Tensor) -> None:
    """Copies a vector made by `torch.nn.utils.parameters_to_vector` into a slicer's parameters."""
    parameters = list(slicer.parameters())
    pieces = weights.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))


@torch.no_grad()
@outside_autocast()
def hard_plan(
    slicer: nn.Module,
    source: Tensor,
    target: Tensor,
    context: Tensor | None = None,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> SparsePlan:
    """The plan a slicer lifts between two clouds, evaluation mode, on the source's device.

    Args:
        slicer: one score a point; the points go to its device and precision.
        source: (N, d).
        target: (M, d).
        context: (c,) or None.
        source_weights: (N,), not negative; None for equal ones.
        target_weights: (M,) likewise.

    Raises:
        TypeError, ValueError: as `lifted_plan` and the slicer.
    """
    weight = next(slicer.parameters(), source)
    context = None if context is None else context.to(weight)
    with evaluating(slicer):
        scores = [slicer(cloud.to(weight), context).to(source.device) for cloud in (source, target)]
    return lifted_plan(*scores, source_weights, target_weights)


class SlicerMatcher:
    """A slicer as a student: it matches two clouds by the order of their scores.

    Args:
        slicer: takes no context.
    """

    def __init__(self, slicer: nn.Module) -> None:
        self.slicer = slicer

    def match(self, source: Tensor, target: Tensor) -> SparsePlan:
        """The plan between source (N, d) and target (M, d)."""
        return hard_plan(self.slicer, source, target)
