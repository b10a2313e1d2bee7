"""Known random features as settings of LUNA's template."""

from __future__ import annotations

from sextant.methods.attention.luna.attention import LunaAttention


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
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    return LunaAttention(
        heads,
        head_dimension,
        length,
        features,
        functions="cosine_sine",
        learn_projection=False,
        bias=False,
        orthogonal=orthogonal,
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
    return LunaAttention(
        heads,
        head_dimension,
        length,
        features,
        functions="exponential",
        envelope="expnorm",
        learn_projection=False,
        bias=False,
        orthogonal=orthogonal,
        scale=1.0,
        input_scale=head_dimension**-0.25,
    )
