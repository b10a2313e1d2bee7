"""Uncentred covariance of the inputs of convolutions and linear layers, streamed over batches.

A layer multiplies rows z (patches of a convolution, features of a linear layer) by its weight
matrix, so a change of the weight that is zero on the span of the rows changes no output. Which
directions the rows span is read off C = Z^T Z / rows, summed in float64 (Wang et al., CVPR 2021).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sextant.methods.numerics import evaluating, outside_autocast
from sextant.methods.unlearning.patch_sums import PatchSums, add_transpose_
from sextant.ranges import at_least

CHUNK_NUMBERS = 2**21
"""Rows of a linear layer are converted to the precision of the products in parts of this size."""
BLOCK = 256
"""Columns of a block of a Gram matrix; blocks below the diagonal are mirrored, not multiplied."""


@dataclass(frozen=True)
class LayerCovariance:
    """Z^T Z / rows of one layer.

    Sums of two data sets add up: `first + second` is the covariance over the rows of both, and
    `both - first` takes rows away again (Hoang et al., WACV 2024), up to rounding.

    Args:
        matrix: (d, d) float64, symmetric. Columns are ordered as in `weight.flatten(1)`; a linear
            layer with a bias has a last one for the constant 1 that multiplies the bias.
        rows: how many were summed, at least 1.

    Raises:
        ValueError: for rows below 1, or covariances of two widths added or subtracted.
    """

    matrix: Tensor
    rows: int

    def __post_init__(self) -> None:
        at_least(1, rows=self.rows)

    def __add__(self, other: LayerCovariance) -> LayerCovariance:
        return self._joined(other, 1)

    def __sub__(self, other: LayerCovariance) -> LayerCovariance:
        return self._joined(other, -1)

    def _joined(self, other: LayerCovariance, sign: int) -> LayerCovariance:
        if self.matrix.shape != other.matrix.shape:
            raise ValueError(
                "other must have the width of this covariance, "
                f"got {len(other.matrix)} and {len(self.matrix)}"
            )
        rows = self.rows + sign * other.rows
        if rows < 1:
            raise ValueError(f"other must have fewer rows than this, got {other.rows}")
        total = self.matrix * (self.rows / rows) + other.matrix * (sign * other.rows / rows)
        return LayerCovariance(total, rows)


class _Sums(Protocol):
    rows: int

    def add(self, inputs: Tensor) -> None: ...

    def matrix(self) -> Tensor: ...


class _RowSums:
    """Sum of z z^T over the rows of a linear layer: the upper blocks only, mirrored at the end."""

    def __init__(self, layer: nn.Linear, precision: torch.dtype) -> None:
        self.width, self.constant = layer.in_features, layer.bias is not None
        self.precision = precision
        self.total, self.column, self.rows = None, None, 0

    def add(self, inputs: Tensor) -> None:
        rows = inputs.reshape(-1, self.width)
        if self.total is None:
            self.total = rows.new_zeros(self.width, self.width, dtype=torch.float64)
            self.column = rows.new_zeros(self.width, dtype=torch.float64)
        for part in rows.split(max(1, CHUNK_NUMBERS // self.width)):
            self._add_part(part.to(self.precision))
        self.rows += len(rows)

    def _add_part(self, rows: Tensor) -> None:
        for first in range(0, self.width, BLOCK):
            left = rows[:, first : first + BLOCK].T
            block = self.total[first : first + BLOCK, first:]
            if block.dtype == rows.dtype:
                block.addmm_(left, rows[:, first:])
            else:
                block += left @ rows[:, first:]
        if self.constant:
            self.column += rows.sum(0, dtype=torch.float64)

    def matrix(self) -> Tensor:
        for first in range(0, self.width, BLOCK):
            self.total[first : first + BLOCK, first : first + BLOCK] *= 0.5
        gram, self.total = add_transpose_(self.total), None
        if not self.constant:
            return gram
        whole = gram.new_empty(self.width + 1, self.width + 1)
        whole[:-1, :-1], whole[-1, :-1], whole[:-1, -1] = gram, self.column, self.column
        whole[-1, -1] = self.rows
        return whole


def refused_layers(model: nn.Module) -> dict[str, str]:
    """Why the inputs of some layers with a weight matrix are not followed: name to reason.

    Only plain `nn.Conv2d` and `nn.Linear` are followed, with zeros for padding, one group and a
    weight of their own. A subclass may treat its weight or its input otherwise (standardised
    weights; `nn.MultiheadAttention` multiplies by the weight of its `out_proj` past the layer's
    forward). A bare parameter, such as `in_proj_weight` of that attention, belongs to no layer:
    it is not named here, and stays frozen like every parameter without a projector.
    """
    owners = _owners(model)
    reasons = {name: _refusal(module, owners) for name, module in model.named_modules()}
    return {name: reason for name, reason in reasons.items() if reason}


def feature_covariances(
    model: nn.Module,
    batches: Iterable[Tensor],
    layers: Sequence[str] | None = None,
    precision: torch.dtype = torch.float64,
) -> dict[str, LayerCovariance]:
    """Covariance of the inputs of each layer while the model looks at some batches.

    Arguments, errors and cost as `stream_covariances`; all matrices are held at once.
    """
    return dict(stream_covariances(model, batches, layers, precision))


def stream_covariances(
    model: nn.Module,
    batches: Iterable[Tensor],
    layers: Sequence[str] | None = None,
    precision: torch.dtype = torch.float64,
) -> Iterator[tuple[str, LayerCovariance]]:
    """As `feature_covariances`, one layer at a time, so that one matrix is held at a time.

    The model looks at all batches, in eval mode and without gradients, when the first pair is
    asked for; its modes are put back and its weights are not touched. A layer that is called
    several times sums over all calls; every token of inputs (B, T, in) is a row.

    What the hooks hold meanwhile: 29 c^2 numbers for a 3x3 convolution of c channels, stride and
    padding 1, where the matrix has 81 c^2. It takes 2 * 13 c^2 operations a position, less at the
    borders, instead of the 2 * 81 c^2 of unfolded patches; a linear layer takes about half of
    rows * in^2 * 2. Batches of 32 images and more use the processor best.

    Args:
        model: anything callable on a batch.
        batches: inputs (n, ...) of the model, on its device; read once.
        layers: names of `named_modules()`, or None for every followed layer that gets called.
        precision: dtype of the products; sums over batches are float64 in any case. In float32 the
            entries are off by up to about 1e-6 of the largest, and so are eigenvalues: those that
            are zero come out as noise of that size, which hides an exact null space.

    Yields:
        Name and covariance, in the order of `named_modules()`.

    Raises:
        TypeError: for a precision that is neither float32 nor float64.
        ValueError: for an unknown, refused or uncalled layer among `layers`, or no batch.
        FloatingPointError: for inputs of a layer that are not finite.
    """
    if precision not in (torch.float32, torch.float64):
        raise TypeError(f"precision must be torch.float32 or torch.float64, got {precision}")
    sums = _watched(model, layers, precision)
    _look(model, batches, sums)
    if layers is not None:
        uncalled = [name for name, one in sums.items() if not one.rows]
        if uncalled:
            raise ValueError(f"layers must be called by the model, {uncalled[0]!r} never is")
    for name in list(sums):
        one = sums.pop(name)
        if one.rows:
            yield name, _finished(name, one)


def _finished(name: str, sums: _Sums) -> LayerCovariance:
    matrix = sums.matrix()
    # A sum of squares is not finite where any of its numbers, or of their products, is not.
    if not torch.isfinite(matrix.diagonal()).all():
        raise FloatingPointError(f"inputs of layer {name!r} must be finite, some are not")
    return LayerCovariance(matrix.div_(sums.rows), sums.rows)


def _watched(
    model: nn.Module, layers: Sequence[str] | None, precision: torch.dtype
) -> dict[str, _Sums]:
    modules, owners = dict(model.named_modules()), _owners(model)
    for name in layers or ():
        if name not in modules:
            raise ValueError(f"layers must be names of the model's modules, got {name!r}")
        reason = _refusal(modules[name], owners)
        if reason is None and not isinstance(modules[name], (nn.Conv2d, nn.Linear)):
            reason = f"it is a {type(modules[name]).__name__}"
        if reason:
            raise ValueError(f"layers must be followed layers, {name!r} is not: {reason}")
    sums: dict[str, _Sums] = {}
    for name, module in modules.items():
        if (layers is not None and name not in layers) or _refusal(module, owners):
            continue
        if isinstance(module, nn.Conv2d):
            sums[name] = PatchSums(module, precision)
        elif isinstance(module, nn.Linear):
            sums[name] = _RowSums(module, precision)
    return sums


@torch.no_grad()
@outside_autocast()
def _look(model: nn.Module, batches: Iterable[Tensor], sums: dict[str, _Sums]) -> None:
    def watch(one: _Sums) -> Any:
        def hook(module: nn.Module, arguments: tuple, named: dict) -> None:
            one.add(arguments[0] if arguments else named["input"])

        return hook

    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(watch(one), with_kwargs=True)
        for name, one in sums.items()
    ]
    looked = False
    try:
        with evaluating(model):
            for batch in batches:
                model(batch)
                looked = True
    finally:
        for hook in hooks:
            hook.remove()
    if not looked:
        raise ValueError("batches must hold at least one batch, got none")


def _owners(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, by the parameter's id."""
    return Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )


def _refusal(module: nn.Module, owners: Counter[int]) -> str | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or isinstance(module, nn.Embedding):
        return None
    if type(module) not in (nn.Conv2d, nn.Linear):
        return f"only plain Conv2d and Linear are, not {type(module).__name__}"
    if owners[id(weight)] > 1:
        return "another layer has the same weight"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return f"it has {module.groups} groups of channels"
        if module.padding_mode != "zeros":
            return f"it pads with {module.padding_mode}, not zeros"
    return None
