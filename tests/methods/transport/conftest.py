"""Clouds that the tests of this folder share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Clouds = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def clouds() -> Clouds:
    """clouds(n, d, seed): N(0, I) and N(1, 0.25 I), each (n, d) float64."""

    def draw(n: int, d: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        source = torch.randn(n, d, generator=generator, dtype=torch.float64)
        return source, 1 + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)

    return draw
