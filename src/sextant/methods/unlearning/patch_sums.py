"""Z^T Z of the patches of a convolution, without making the patches.

The block of kernel offsets a and b of Z^T Z is the sum over output positions p of x[p + a] x[p + b]
(outer products over channels). Moving p shows that it depends on b - a alone, but for positions at
the border that one pair has and another has not. So every shift is multiplied once, in rectangles
that no border of any pair crosses, and a block is the sum of its rectangles: for a 3x3 kernel 13
products of channels (25 shifts, half of them mirrored) take the place of 81.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

CHUNK_NUMBERS = 2**22
"""Inputs are laid out in the precision of the products in parts of about this size."""
TILE = 256
"""Rows and columns that are transposed at a time: as many as stay in the cache."""


class Overlap(NamedTuple):
    """A stretch of one axis that all `pairs` have and no other pair of its shift crosses.

    Args:
        residue: of the first factor's coordinate modulo the stride.
        shift: of the second factor against the first, in inputs.
        first, last: the stretch [first, last) of coordinates (first factor - residue) / stride.
        pairs: kernel offsets (of the first factor, of the second).
    """

    residue: int
    shift: int
    first: int
    last: int
    pairs: tuple[tuple[int, int], ...]


def overlaps(
    size: int, kernel: int, stride: int, dilation: int, before: int, outputs: int
) -> list[Overlap]:
    """The stretches of one axis of a convolution.

    Args:
        size: inputs along the axis, without padding.
        kernel, stride, dilation: of the convolution.
        before: zeros in front of the inputs.
        outputs: positions of the kernel.
    """
    held: dict[tuple[int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
    for one, other in itertools.product(range(kernel), repeat=2):
        start, shift = dilation * one - before, dilation * (other - one)
        low, high = min(start, start + shift), max(start, start + shift)
        # Output positions at which both factors lie on inputs, not on padding.
        begin, end = max(0, -(low // stride)), min(outputs, -((high - size) // stride))
        if begin < end:
            move, residue = divmod(start, stride)
            held[residue, shift].append((one, other, begin + move, end + move))
    found = []
    for (residue, shift), pairs in held.items():
        cuts = sorted({cut for _, _, begin, end in pairs for cut in (begin, end)})
        for first, last in itertools.pairwise(cuts):
            inside = tuple((a, b) for a, b, begin, end in pairs if begin <= first and last <= end)
            if inside:
                found.append(Overlap(residue, shift, first, last, inside))
    return found


class PatchSums:
    """Sum of z z^T over the patches z of a convolution's inputs, for inputs of any sizes.

    Args:
        layer: with one group, padded with zeros.
        precision: dtype of the products.
    """

    def __init__(self, layer: nn.Conv2d, precision: torch.dtype) -> None:
        self.channels, self.kernel = layer.in_channels, layer.kernel_size
        self.stride, self.dilation, self.precision = layer.stride, layer.dilation, precision
        self.padding = _padding(layer)
        self.rows = 0
        self._plans: dict[tuple[int, int], list[tuple[Overlap, Overlap]]] = {}
        self._sums: dict[tuple[int, int], Tensor] = {}

    def add(self, inputs: Tensor) -> None:
        """Adds the patches of inputs (n, channels, height, width) or (channels, height, width)."""
        inputs = inputs if inputs.ndim == 4 else inputs[None]
        size = tuple(inputs.shape[2:])
        if size not in self._plans:
            self._plans[size] = list(self._plan(size))
            shape = (len(self._plans[size]), self.channels, self.channels)
            self._sums[size] = inputs.new_zeros(shape, dtype=torch.float64)
        for part in inputs.split(max(1, CHUNK_NUMBERS // inputs[0].numel())):
            self._add_part(part, self._plans[size], self._sums[size])
        self.rows += len(inputs) * self._outputs(size, 0) * self._outputs(size, 1)

    def matrix(self) -> Tensor:
        """The sum (d, d) in the order of `weight.flatten(1)`, d = channels * kernel area."""
        area = self.kernel[0] * self.kernel[1]
        parts = self._parts()
        device = next(iter(self._sums.values())).device
        blocks, row = (
            torch.empty(shape, dtype=torch.float64, device=device)
            for shape in (
                (self.channels, area, self.channels, area),
                (area, self.channels, self.channels),
            )
        )
        for one in range(area):
            row.zero_()
            for other, block in enumerate(row):
                for product in parts[one, other]:
                    block += product
            row[one] *= 0.5
            blocks[:, one] = row.permute(1, 2, 0)
        width = self.channels * area
        return add_transpose_(blocks.view(width, width))

    def _parts(self) -> dict[tuple[int, int], list[Tensor]]:
        """The products that add up to a block, by its offsets in the kernel; half of all blocks."""
        across = self.kernel[1]
        parts: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for size, plan in self._plans.items():
            for (down, right), product in zip(plan, self._sums[size], strict=True):
                for (y, other_y), (x, other_x) in itertools.product(down.pairs, right.pairs):
                    parts[y * across + x, other_y * across + other_x].append(product)
        return parts

    def _plan(self, size: tuple[int, int]) -> Iterator[tuple[Overlap, Overlap]]:
        """Rectangles of half of the shifts; the other half is mirrored."""
        axes = (
            overlaps(
                size[axis],
                self.kernel[axis],
                self.stride[axis],
                self.dilation[axis],
                self.padding[axis][0],
                self._outputs(size, axis),
            )
            for axis in (0, 1)
        )
        for down, right in itertools.product(*axes):
            if (down.shift, right.shift) >= (0, 0):
                yield down, right

    def _outputs(self, size: tuple[int, int], axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (size[axis] + sum(self.padding[axis]) - reach - 1) // self.stride[axis] + 1

    def _add_part(self, inputs: Tensor, plan: list[tuple[Overlap, Overlap]], sums: Tensor) -> None:
        layout = self._layout(inputs)
        for (down, right), total in zip(plan, sums, strict=True):
            first = self._factor(layout, down, right, 0, 0)
            second = self._factor(layout, down, right, down.shift, right.shift)
            if first.is_contiguous() and second.is_contiguous():
                first, second = (part.flatten(0, 2)[None] for part in (first, second))
            else:
                first, second = (part.flatten(1, 2) for part in (first, second))
            if self.precision == total.dtype:
                total.addbmm_(first.transpose(1, 2), second)
            else:
                product = total.new_zeros(total.shape, dtype=self.precision)
                total += product.addbmm_(first.transpose(1, 2), second)

    def _layout(self, inputs: Tensor) -> dict[tuple[int, int], Tensor]:
        """Inputs by residue of row and column: (rows, columns, n, channels), contiguous.

        With images inside columns, any stretch of a row is a matrix of many rows as it stands.
        """
        layout = {}
        for residues in itertools.product(*(range(stride) for stride in self.stride)):
            grid = inputs[:, :, residues[0] :: self.stride[0], residues[1] :: self.stride[1]]
            grid = grid.permute(2, 3, 0, 1)
            layout[residues] = grid.new_empty(grid.shape, dtype=self.precision).copy_(grid)
        return layout

    def _factor(
        self,
        layout: dict[tuple[int, int], Tensor],
        down: Overlap,
        right: Overlap,
        down_shift: int,
        right_shift: int,
    ) -> Tensor:
        """The inputs of a rectangle, moved by a shift: a view (rows, columns, n, channels)."""
        residues, cuts = [], []
        for overlap, shift, stride in (
            (down, down_shift, self.stride[0]),
            (right, right_shift, self.stride[1]),
        ):
            move, residue = divmod(overlap.residue + shift, stride)
            residues.append(residue)
            cuts.append(slice(overlap.first + move, overlap.last + move))
        return layout[tuple(residues)][cuts[0], cuts[1]]


def add_transpose_(matrix: Tensor) -> Tensor:
    """matrix + matrix^T in place, tile by tile, exactly symmetric; returns the matrix (d, d)."""
    cuts = [slice(first, first + TILE) for first in range(0, len(matrix), TILE)]
    for number, rows in enumerate(cuts):
        for columns in cuts[number:]:
            tile = matrix[rows, columns] + matrix[columns, rows].T
            matrix[rows, columns], matrix[columns, rows] = tile, tile.T
    return matrix


def _padding(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after the inputs, of rows and of columns."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        rows, columns = ((reach // 2, reach - reach // 2) for reach in reaches)
        return rows, columns
    rows, columns = layer.padding
    return (rows, rows), (columns, columns)
