"""Velocity networks for vector data, conditioned on the time t and the interval h = t - r."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.backbones.dual import DualPerceptron
from sextant.ranges import at_least


class VelocityMLP(nn.Module):
    """A SiLU perceptron u(z, t, h, label) from R^dimension to R^dimension.

    t and h, both in [0, 1], enter as sines and cosines of the angular frequencies
    `lowest_frequency` 2^k. The lowest must stay below 2 pi, where the two ends of the unit interval
    would look alike and one step over the whole interval (h = 1) would pass for a velocity (h = 0).
    The default keeps all of them low: the mean-flow target contains the network's own derivative
    in t, and high frequencies make it noisy.

    Args:
        dimension: of z and of the velocity.
        width: of the hidden layers.
        depth: number of hidden layers.
        frequencies: number of frequencies for t, and as many for h.
        lowest_frequency: the first of them, in radians per unit of time, in (0, 2 pi).
        classes: number of labels; 0 builds an unconditional network, which ignores labels.
        class_width: width of the label embedding, concatenated to the other inputs.

    Raises:
        ValueError: for a size that is not positive (`classes` may be 0).
    """

    angular: Tensor

    def __init__(
        self,
        dimension: int,
        width: int = 256,
        depth: int = 3,
        frequencies: int = 4,
        classes: int = 0,
        class_width: int = 32,
        lowest_frequency: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = {"dimension": dimension, "width": width, "depth": depth, "frequencies": frequencies}
        at_least(1, **sizes, class_width=class_width)
        if classes < 0:
            raise ValueError(f"classes must be 0 (unconditional) or more, got {classes}")
        self.dimension, self.classes = dimension, classes
        if not 0 < lowest_frequency < 2 * math.pi:
            raise ValueError(f"lowest_frequency must lie in (0, 2 pi), got {lowest_frequency}")
        angular = lowest_frequency * 2.0 ** torch.arange(frequencies)
        self.register_buffer("angular", angular, persistent=False)
        self.embedding = nn.Embedding(classes, class_width) if classes else None
        inputs = dimension + 4 * frequencies + (class_width if classes else 0)
        widths = [inputs] + [width] * depth + [dimension]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def forward(self, z: Tensor, t: Tensor, h: Tensor, labels: Tensor | None = None) -> Tensor:
        """z (n, dimension), t and h (n,), labels (n,) int64; returns the velocity like z.

        Raises:
            ValueError: for z of another width, or no labels where the network needs them.
        """
        angles = self._angles(t, h)
        features = torch.cat(
            (z, torch.sin(angles), torch.cos(angles), *self._label_features(z, labels)), dim=1
        )
        for layer in self.layers[:-1]:
            features = functional.silu(layer(features))
        return self.layers[-1](features)

    def forward_with_tangent(
        self,
        z: Tensor,
        t: Tensor,
        h: Tensor,
        labels: Tensor | None,
        dz: Tensor,
        dt: Tensor,
        dh: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The velocity and its derivative along (dz, dt, dh), in one pass.

        Shapes as in `forward`, tangents like what they are tangents of. The velocity carries a
        graph to the parameters (and none to z, t and h), the derivative carries none.
        The same numbers as `torch.func.jvp` of `forward`, at about half its cost.
        """
        embedded = self._label_features(z, labels)
        with torch.no_grad():
            angles, rates = self._angles(t, h), self._angles(dt, dh)
            sines, cosines = torch.sin(angles), torch.cos(angles)
            tangents = torch.cat(
                (
                    dz,
                    rates * cosines,
                    -rates * sines,
                    *(torch.zeros_like(rows) for rows in embedded),
                ),
                dim=1,
            )
        features = torch.cat((z.detach(), sines, cosines, *embedded), dim=1)
        parameters = (tensor for layer in self.layers for tensor in (layer.weight, layer.bias))
        return DualPerceptron.apply(features, tangents, *parameters)

    def _angles(self, t: Tensor, h: Tensor) -> Tensor:
        """t and h (n,) to angles (n, 2 * frequencies)."""
        return torch.cat((t[:, None] * self.angular, h[:, None] * self.angular), dim=1)

    def _label_features(self, z: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The embedded labels [(n, class_width)], or [] for an unconditional network."""
        if z.ndim != 2 or z.shape[1] != self.dimension:
            raise ValueError(f"z must be (n, {self.dimension}), got {tuple(z.shape)}")
        if self.embedding is None:
            return []
        if labels is None:
            raise ValueError(f"labels are missing: this network has {self.classes} classes")
        return [self.embedding(labels)]
