"""An autoencoder for point clouds, its loss and the module that trains it.

A cloud is encoded whatever the order of its points, and rebuilt as a cloud of a fixed number of
points (the code of min-STP, arXiv 2511.19741).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from sextant.methods.backbones.supervised import SupervisedModule
from sextant.ranges import at_least

DIMENSION = 3
"""Coordinates of a point."""

PAIRS_AT_ONCE = 1 << 22
"""Distances held at a time by `chamfer_distance`; 16 MiB of float32."""

POINTS_AT_ONCE = 1 << 16
"""Points encoded at a time in evaluation; at a code of 512 numbers 128 MiB of float32."""


class PointAutoencoder(nn.Module):
    """Two stacks of three layers shared by all points, with a maximum after each; an MLP back.

    Encoder: 3, width/2, width, width with BatchNorm and ReLU (no ReLU on the third); the maximum
    over the cloud is added to every point; width, width, width, code with BatchNorm and ReLU (no
    ReLU on the third); the maximum over the cloud is the code. Decoder: code, width, width,
    3 points, with ReLU in between. In training mode BatchNorm mixes the clouds of a batch; codes
    to be compared must come from evaluation mode.

    Args:
        points: how many points a decoded cloud has.
        code: length of the code.
        width: channels, an even number.

    Raises:
        ValueError: for sizes that are not positive, or an odd width.
    """

    def __init__(self, points: int, code: int = 512, width: int = 256) -> None:
        super().__init__()
        at_least(1, points=points, code=code, width=width)
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        self.points, self.code = points, code
        self.local = _shared_layers((DIMENSION, width // 2, width, width))
        self.whole = _shared_layers((width, width, width, code))
        self.decoder = nn.Sequential(
            nn.Linear(code, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, DIMENSION * points),
            nn.Unflatten(1, (points, DIMENSION)),
        )

    def encode(self, inputs: Tensor) -> Tensor:
        """Clouds (n, N, 3) to codes (n, code); N need not be `points`.

        Raises:
            ValueError: for clouds of another shape, or without points.
        """
        if inputs.ndim != 3 or inputs.shape[2] != DIMENSION or inputs.shape[1] == 0:
            raise ValueError(f"clouds must be (n, N, {DIMENSION}), got {tuple(inputs.shape)}")
        clouds = inputs.shape[:2]
        # All points of all clouds are rows of one matrix, so a layer is one product.
        features = self.local(inputs.flatten(0, 1)).unflatten(0, clouds)
        features = features + features.amax(1, keepdim=True)
        return self.whole(features.flatten(0, 1)).unflatten(0, clouds).amax(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, code) to clouds (n, points, 3).

        Raises:
            ValueError: for codes of another length.
        """
        if codes.ndim != 2 or codes.shape[1] != self.code:
            raise ValueError(f"codes must be (n, {self.code}), got {tuple(codes.shape)}")
        return self.decoder(codes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Clouds to their reconstructions."""
        return self.decode(self.encode(inputs))


class PointReconstructionModule(SupervisedModule):
    """Learns to rebuild clouds: Chamfer distance; a batch is clouds (n, N, 3) or (clouds, ...).

    Encodes and decodes in evaluation mode, so that a code depends on its own cloud alone.
    """

    loss_name = "chamfer_distance"

    def loss(self, batch: Any) -> Tensor:
        """Mean Chamfer distance between clouds and reconstructions."""
        clouds = batch if isinstance(batch, Tensor) else batch[0]
        return chamfer_distance(self.network(clouds), clouds).mean()

    def encode(self, inputs: Tensor) -> Tensor:
        """Clouds (n, N, 3) to codes (n, code)."""
        chunks = inputs.split(max(1, POINTS_AT_ONCE // max(1, inputs.shape[1])))
        return torch.cat([self.answer(self.network.encode, clouds) for clouds in chunks])

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, code) to clouds (n, points, 3)."""
        return self.answer(self.network.decode, codes)


def chamfer_distance(source: Tensor, target: Tensor) -> Tensor:
    """Chamfer distances (B,) of clouds source (B, N, d) and target (B, M, d).

    For each pair of clouds the mean over source points of the squared distance to the nearest
    target point, plus the same with source and target swapped. Differentiable in both clouds; the
    memory does not grow with N M.

    Raises:
        ValueError: for clouds of other shapes, or without points.
    """
    if (
        source.ndim != 3
        or target.ndim != 3
        or source.shape[::2] != target.shape[::2]
        or 0 in (source.shape[1], target.shape[1])
    ):
        raise ValueError(
            "source and target must be (B, N, d) and (B, M, d) with points, "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    nearest_target, nearest_source = _nearest(source.detach(), target.detach())
    forth = (source - _rows(target, nearest_target)).square().sum(2).mean(1)
    back = (target - _rows(source, nearest_source)).square().sum(2).mean(1)
    return forth + back


def _nearest(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest target of each source point, int64 (B, N), and the other way round, (B, M).

    Found with a matrix product, so points whose distances agree up to rounding may be taken for
    one another; the distance itself is then taken from coordinate differences.
    """
    middle = source.mean(1, keepdim=True)
    source, target = source - middle, target - middle
    clouds = max(1, PAIRS_AT_ONCE // (source.shape[1] * target.shape[1]))
    rows = max(1, PAIRS_AT_ONCE // target.shape[1])
    found = [
        _nearest_in_blocks(some_sources, some_targets, rows)
        for some_sources, some_targets in zip(
            source.split(clouds), target.split(clouds), strict=True
        )
    ]
    forth, back = zip(*found, strict=True)
    return torch.cat(forth), torch.cat(back)


def _nearest_in_blocks(source: Tensor, target: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """`_nearest` for some clouds, `rows` source points at a time."""
    target_squares = target.square().sum(2)[:, None]
    forth, back, least, first = [], None, None, 0
    for block in source.split(rows, 1):
        distance = torch.baddbmm(target_squares, block, target.mT, alpha=-2.0)
        forth.append(distance.argmin(2))
        distance += block.square().sum(2, keepdim=True)
        block_least, block_back = distance.min(1)
        if back is None:
            least, back = block_least, block_back
        else:
            closer = block_least < least
            back = torch.where(closer, block_back + first, back)
            least = torch.where(closer, block_least, least)
        first += block.shape[1]
    return torch.cat(forth, 1), back


def _rows(points: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, n) of clouds (B, N, d), (B, n, d)."""
    return points.gather(1, index[..., None].expand(-1, -1, points.shape[2]))


def _shared_layers(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with BatchNorm, and ReLU after all but the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
