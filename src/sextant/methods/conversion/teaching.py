"""How a new map is taught before the task is: to imitate softmax rows, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention
from sextant.methods.conversion.substitute import ConvertedAttention, softmax_weights

SMALLEST_WEIGHT = 1e-8
"""A new row's weights are taken for at least this, so that their logarithms are finite."""


class RowLesson:
    """Collects how far the rows of every converted layer are from those of softmax.

    Args:
        propagate_teacher: whether the next layer gets what softmax mixes, as it did before the
            conversion; otherwise what the new rows mix.
    """

    def __init__(self, propagate_teacher: bool = True) -> None:
        self.propagate_teacher = propagate_teacher
        self.losses: list[Tensor] = []

    def take(self, teacher: Tensor, student: Tensor, key_mask: Tensor | None) -> None:
        """The mean cross-entropy of rows (B, H, N, M) over heads and real queries, noted down.

        Queries are the last N of the M tokens, so that `key_mask` (B, M) says which are real.
        """
        rows = cross_entropy(teacher, student)
        if key_mask is None:
            self.losses.append(rows.mean())
            return
        real = key_mask[:, None, -rows.shape[2] :].expand_as(rows)
        self.losses.append(rows.masked_fill(~real, 0).sum() / real.sum().clamp(min=1))

    def loss(self) -> Tensor:
        """The mean over layers.

        Raises:
            ValueError: where no converted layer was asked.
        """
        if not self.losses:
            raise ValueError("model must have converted layers that were asked, none was")
        return torch.stack(self.losses).mean()


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """-sum teacher log student of rows (..., M): at least the teacher's entropy, there if equal."""
    return -(teacher * student.clamp(min=SMALLEST_WEIGHT).log()).sum(-1)


@contextmanager
def lesson(model: nn.Module, propagate_teacher: bool = True) -> Iterator[RowLesson]:
    """Inside, every call of the model adds the losses of its converted layers to the lesson."""
    parts = [part for part in model.modules() if isinstance(part, ConvertedAttention)]
    taken = RowLesson(propagate_teacher)
    for part in parts:
        part.lesson = taken
    try:
        yield taken
    finally:
        for part in parts:
            part.lesson = None


def map_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the maps of a converted model learn: nothing of the model, and no convolution."""
    return [
        parameter
        for part in model.modules()
        if isinstance(part, ConvertedAttention)
        for parameter in part.attention.parameters()
    ]


def fit_to_softmax(
    attention: Attention,
    head_dimension: int,
    steps: int = 300,
    tokens: int = 64,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> float:
    """Teaches a map of any number of heads the rows of exp(q k / sqrt(D)) on normal tokens.

    Returns:
        The cross-entropy minus the teacher's entropy, a divergence, of the last batch.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(attention.parameters(), learning_rate)
    heads, tokens = attention.heads or 1, min(tokens, attention.length or tokens)
    units = torch.eye(tokens).expand(8, heads, tokens, tokens)
    divergence = torch.zeros(())
    for _ in range(steps):
        queries, keys = torch.randn(2, 8, heads, tokens, head_dimension, generator=generator)
        teacher = softmax_weights(queries, keys, None)
        loss = cross_entropy(teacher, attention(queries, keys, units)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        divergence = loss.detach() - cross_entropy(teacher, teacher).mean()
    return float(divergence)


def start_from_softmax(model: nn.Module, steps: int = 300, seed: int = 0) -> None:
    """Gives all maps of a converted model, alike for all heads, one that was fitted to softmax.

    Raises:
        ValueError: for maps that learn nothing or differ from head to head.
    """
    maps = [part.attention for part in model.modules() if isinstance(part, ConvertedAttention)]
    if not maps or not hasattr(maps[0], "feature_map"):
        raise ValueError("model must be converted to luna, whose map serves all heads")
    first = maps[0]
    fit_to_softmax(first, first.feature_map.dimension, steps, seed=seed)
    for other in maps[1:]:
        other.load_state_dict(first.state_dict())
