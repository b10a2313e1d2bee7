"""Known random features as settings of LUNA's template."""

from __future__ import annotations

from typing import Any

import torch

from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.performer import orthogonal_gaussian
from sextant.methods.signatures import passes_on_to
from sextant.ranges import positive


@passes_on_to(LunaAttention)
class RandomFeatures(LunaAttention):
    """LUNA's template with projections that stay as they were drawn, and no bias.

    Random features as in Rahimi and Recht (2007) and arXiv 2009.14794. Every row of w is Gaussian,
    so that features estimate their kernel without bias, orthogonal blocks included. They take the
    time and memory of `LunaAttention`.

    Args:
        heads, head_dimension, length, features: as `LunaAttention`.
        orthogonal: draws w in blocks of d orthogonal rows (`orthogonal_gaussian`).
        settings: of the template.

    Raises:
        ValueError: as `LunaAttention`.
    """

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int = 32,
        length: int | None = None,
        features: int = 128,
        orthogonal: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(
            heads,
            head_dimension,
            length,
            features,
            learn_projection=False,
            bias=False,
            **settings,
        )
        self.orthogonal = orthogonal
        self._draw_blocks()

    def reset_parameters(self) -> None:
        """Draws the projections anew from torch's global generator."""
        super().reset_parameters()
        self._draw_blocks()

    @torch.no_grad()
    def _draw_blocks(self) -> None:
        if self.orthogonal:
            projection = self.feature_map.projection
            projection.copy_(self.feature_map.scale * orthogonal_gaussian(*projection.shape))


def random_fourier(
    heads: int | None = None,
    head_dimension: int = 32,
    length: int | None = None,
    features: int = 128,
    sigma: float = 1.0,
    orthogonal: bool = False,
) -> LunaAttention:
    """Random Fourier features of exp(-|x - y|^2 / (2 sigma^2)), features / 2 frequencies.

    Nothing is learnt. Features can be negative, and so can the weights of attention.

    Args:
        heads, head_dimension, length: as `LunaAttention`.
        features: D, even.
        sigma: width of the kernel, in the unit of queries and keys.
        orthogonal: draws frequencies in orthogonal blocks, which lowers the variance.

    Raises:
        ValueError: as `LunaAttention`, or for a sigma that is not positive.
    """
    positive(sigma=sigma)
    return RandomFeatures(
        heads,
        head_dimension,
        length,
        features,
        orthogonal,
        functions="cosine_sine",
        scale=1 / sigma,
    )


def positive_random(
    heads: int | None = None,
    head_dimension: int = 32,
    length: int | None = None,
    features: int = 128,
    orthogonal: bool = True,
) -> LunaAttention:
    """FAVOR+, positive random features of exp(q . k / sqrt(d)), inside LUNA's template.

    exp(w . x - |x|^2 / 2) with x = q d^(-1/4): nothing is learnt, and no maximum is subtracted, so
    that queries and keys should be of moderate length (w . x below 88 in float32).

    Args:
        heads, head_dimension, length, features: as `LunaAttention`.
        orthogonal: draws w in orthogonal blocks, as FAVOR+ does.

    Raises:
        ValueError: as `LunaAttention`.
    """
    return RandomFeatures(
        heads,
        head_dimension,
        length,
        features,
        orthogonal,
        functions="exponential",
        envelope="expnorm",
        scale=1.0,
        input_scale=head_dimension**-0.25,
    )
