"""A vision transformer around any attention (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention
from sextant.methods.backbones.sequence_encoder import check_attention


class PatchClassifier(nn.Module):
    """Names the class of a picture cut into patches.

    A linear map of each patch, a class token in front, positions added, both N(0, 1) as in the
    Sinkformers' and ESPFormer's code; layers x + attention(norm(x)), then
    x + feed_forward(norm(x)); a last LayerNorm and a linear map of the class token.

    O(layers N width (heads head_dimension + hidden)) time and what the attention costs.

    Args:
        attention: every layer gets a copy of it whose parameters are drawn anew from torch's global
            generator; where it has a `layer`, that becomes the layer's number.
        channels: of the pictures.
        side: their height and width.
        patch: height and width of a patch, divisors of the side.
        classes: how many.
        width: channels of a token.
        layers: how many.
        heads: of the attention.
        head_dimension: channels of a head's queries, keys and values.
        hidden: width of the feed-forward layers; None leaves them out.

    Raises:
        ValueError: for a size out of range, or an attention made for other sizes.
    """

    def __init__(
        self,
        attention: Attention,
        channels: int,
        side: int,
        patch: Sequence[int],
        classes: int,
        width: int = 128,
        layers: int = 1,
        heads: int = 1,
        head_dimension: int = 128,
        hidden: int | None = 128,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "side": side, "classes": classes, "width": width}
        sizes |= {"layers": layers, "heads": heads, "head_dimension": head_dimension}
        for name, size in (sizes | {"hidden": 1 if hidden is None else hidden}).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if len(patch) != 2 or any(edge < 1 or side % edge for edge in patch):
            raise ValueError(
                f"patch must be a height and a width that divide the side {side}, got {list(patch)}"
            )
        self.patch, self.classes = tuple(patch), classes
        tokens = (side // patch[0]) * (side // patch[1])
        check_attention(attention, heads, head_dimension, tokens + 1)
        self.embedding = nn.Linear(channels * patch[0] * patch[1], width)
        self.first = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.randn(tokens + 1, width))
        self.layers = nn.ModuleList(
            Layer(attention, number, width, heads, head_dimension, hidden)
            for number in range(1, layers + 1)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def patches(self, images: Tensor) -> Tensor:
        """Images (B, channels, side, side) to patches (B, N, channels * height * width), rows of
        patches one after another."""
        high, wide = self.patch
        cut = images.unfold(2, high, high).unfold(3, wide, wide)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    def features(self, images: Tensor) -> Tensor:
        """The class token (B, width) after the last norm."""
        rows = self.embedding(self.patches(images))
        first = self.first.expand(len(rows), 1, -1)
        rows = torch.cat((first, rows), 1) + self.positions
        for layer in self.layers:
            rows = layer(rows)
        return self.norm(rows[:, 0])

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, channels, side, side) to class scores (B, classes)."""
        return self.head(self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        """The class scores."""
        return self.logits(images)


class Layer(nn.Module):
    """x + attention(norm(x)) and, unless `hidden` is None, x + feed_forward(norm(x)).

    Args:
        attention: is copied, and the copy drawn anew.
        number: of the layer, from 1 on.
        width, heads, head_dimension, hidden: as `PatchClassifier`.
    """

    def __init__(
        self,
        attention: Attention,
        number: int,
        width: int,
        heads: int,
        head_dimension: int,
        hidden: int | None,
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dimension
        self.attention_norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * inner, bias=False)
        self.attention = copy.deepcopy(attention)
        if hasattr(self.attention, "layer"):
            self.attention.layer = number
        self.attention.reset_parameters()
        self.output = nn.Linear(inner, width)
        self.feed_forward = None
        if hidden is not None:
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
            )

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, N, width) to rows of that shape."""
        split = self.inputs(self.attention_norm(rows)).unflatten(-1, (3, self.heads, -1))
        mixed = self.attention(*split.permute(2, 0, 3, 1, 4))
        rows = rows + self.output(mixed.transpose(1, 2).flatten(2))
        return rows if self.feed_forward is None else rows + self.feed_forward(rows)
