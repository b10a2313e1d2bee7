"""The encoder of the Long Range Arena's small models, around any attention."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sextant.methods.attention.base import Attention, masked
from sextant.methods.numerics import widened
from sextant.ranges import at_least, within

DEVIATION = 0.02
"""Standard deviation of token and position embeddings at the start."""


class SequenceClassifier(nn.Module):
    """Names the class of a sequence of tokens, or of a pair of documents.

    The two-layer model of the Skyformer, Nyströmformer and LOTFormer code. Token and position
    embeddings; pre-norm layers with weights of their own; a last LayerNorm; rows of padding set to
    0; the mean over **all** positions, padding counted; Linear, ReLU, Linear. Of two documents a
    and b, which one encoder reads apart from each other, the head takes [a, b, a * b, a - b].

    Under autocast the last norm, the mean and the head are in float32, as the core of attention is.
    O(layers N (width^2 + width hidden)) time, O(layers N (width + hidden)) memory with a graph, and
    what the attention costs.

    Args:
        attention: every layer gets a copy of it whose parameters and random numbers are drawn anew
            from torch's global generator.
        vocabulary: how many tokens there are.
        length: the most tokens of a document.
        classes: how many classes there are.
        two_documents: whether an example is a pair of documents.
        width: channels between the layers.
        layers: how many.
        heads: of the attention.
        head_dimension: channels of a head's queries, keys and values.
        hidden: width of the feed-forward layers and of the head.
        dropout: share of zeros after the embedding, after attention and, twice, in the feed-forward
            layers; in training.
        values_convolution: None, or the odd width of a convolution along each channel of the values
            that is added to what attention gives, whichever the attention.

    Raises:
        ValueError: for a size out of range, or an attention made for other sizes.
    """

    def __init__(
        self,
        attention: Attention,
        vocabulary: int,
        length: int,
        classes: int,
        two_documents: bool = False,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        head_dimension: int = 32,
        hidden: int = 128,
        dropout: float = 0.1,
        values_convolution: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "length": length, "width": width, "layers": layers}
        sizes |= {"heads": heads, "head_dimension": head_dimension, "hidden": hidden}
        at_least(1, **sizes)
        at_least(2, classes=classes)
        within("[0, 1)", dropout=dropout)
        check_attention(attention, heads, head_dimension, length)
        self.vocabulary, self.length, self.classes = vocabulary, length, classes
        self.two_documents = two_documents
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        for weight in (self.tokens.weight, self.positions):
            nn.init.normal_(weight, std=DEVIATION)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(
                attention, width, heads, head_dimension, hidden, dropout, values_convolution
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        inputs = 4 * width if two_documents else width
        self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def encode(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Documents (B, N) to rows (B, N, width), float32, 0 where the mask (B, N) is False."""
        rows = self.dropout(self.tokens(tokens) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            rows = layer(rows, mask)
        with torch.autocast(rows.device.type, enabled=False):
            rows = self.norm(widened(rows))
        return rows if mask is None else rows.masked_fill(~mask[..., None], 0)

    def features(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head is given: (B, width), or (B, 4 width) of pairs of documents.

        Args:
            tokens: int64 (B, N), or (B, 2, N) with two documents; N at most `length`.
            mask: bool of that shape, True for a real token; None where all are real.

        Raises:
            ValueError: for tokens or a mask of another shape.
        """
        if tokens.ndim != 2 + self.two_documents or (self.two_documents and tokens.shape[1] != 2):
            wanted = "(batch, 2, tokens)" if self.two_documents else "(batch, tokens)"
            raise ValueError(f"tokens must be {wanted}, got {tuple(tokens.shape)}")
        if tokens.shape[-1] > self.length:
            raise ValueError(f"tokens must be at most {self.length} long, got {tokens.shape[-1]}")
        if mask is not None and mask.shape != tokens.shape:
            raise ValueError(
                f"mask must have the shape of the tokens {tuple(tokens.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if not self.two_documents:
            return self.encode(tokens, mask).mean(1)
        mask = None if mask is None else mask.flatten(0, 1)
        pooled = self.encode(tokens.flatten(0, 1), mask).mean(1)
        first, second = pooled.unflatten(0, (-1, 2)).unbind(1)
        return torch.cat((first, second, first * second, first - second), 1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores (B, classes), float32, of tokens and mask as in `features`."""
        features = self.features(tokens, mask)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        attention: is copied, and the copy drawn anew.
        width, heads, head_dimension, hidden, dropout, values_convolution: as `SequenceClassifier`.

    Raises:
        ValueError: for a convolution of even width, or below 1.
    """

    def __init__(
        self,
        attention: Attention,
        width: int,
        heads: int,
        head_dimension: int,
        hidden: int,
        dropout: float,
        values_convolution: int | None,
    ) -> None:
        super().__init__()
        if values_convolution is not None and (
            values_convolution < 1 or values_convolution % 2 == 0
        ):
            raise ValueError(
                f"values_convolution must be odd and at least 1, or null, got {values_convolution}"
            )
        self.heads = heads
        inner = heads * head_dimension
        self.attention_norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * inner)
        self.attention = copy.deepcopy(attention)
        self.attention.reset_parameters()
        self.convolution = None
        if values_convolution is not None:
            self.convolution = nn.Conv1d(
                inner,
                inner,
                values_convolution,
                padding=values_convolution // 2,
                groups=inner,
                bias=False,
            )
        self.output = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Rows (B, N, width) to rows of that shape; the mask (B, N) hides keys and values."""
        rows = rows + self.dropout(self._attended(self.attention_norm(rows), mask))
        return rows + self.feed_forward(self.feed_norm(rows))

    def _attended(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        split = self.inputs(rows).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        mixed = self.attention(queries, keys, values, mask)
        if self.convolution is not None:
            channels = masked(values, mask).transpose(-1, -2)
            near = self.convolution(channels.flatten(1, 2)).view_as(channels)
            mixed = mixed + near.transpose(-1, -2)
        return self.output(mixed.transpose(1, 2).flatten(2))


def check_attention(attention: Attention, heads: int, head_dimension: int, length: int) -> None:
    """Raises a ValueError for an attention that was made for other sizes."""
    made = {"heads": (attention.heads, heads)}
    made["head_dimension"] = (attention.head_dimension, head_dimension)
    for name, (own, wanted) in made.items():
        if own is not None and own != wanted:
            raise ValueError(f"attention must have {name} {wanted}, got {own}")
    if attention.length is not None and attention.length < length:
        raise ValueError(f"attention must take a length of {length}, got {attention.length}")
