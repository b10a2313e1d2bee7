"""The set transformer without pooling: every point of a set gets outputs that depend on the set.

Blocks as in the code of min-STP (arXiv 2511.19741) and in Lee et al. (2019); in those
papers' words: MAB is `AttentionBlock`, SAB is `SetBlock`, ISAB is `InducedBlock`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.ranges import at_least


class AttentionBlock(nn.Module):
    """Queries attend to keys, then a residual linear layer, both followed by a LayerNorm.

    With q = Wq Q, k = Wk K and v = Wv K split into heads along the channels:
    O = LN(q + softmax(q k^T / sqrt(width)) v), and the output is LN(O + relu(Wo O)).
    The scale is that of the full width, not of one head's share of it.

    Args:
        query_width: channels of the queries.
        key_width: channels of the keys.
        width: channels of the output, a multiple of `heads`.
        heads: number of attention heads.

    Raises:
        ValueError: for sizes that are not positive, or a width that the heads cannot share.
    """

    def __init__(self, query_width: int, key_width: int, width: int, heads: int) -> None:
        super().__init__()
        sizes = {"query_width": query_width, "key_width": key_width, "heads": heads}
        at_least(1, **sizes, width=width)
        if width % heads:
            raise ValueError(f"width must be a multiple of the {heads} heads, got {width}")
        self.heads, self.scale = heads, width**-0.5
        self.query = nn.Linear(query_width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)
        self.output = nn.Linear(width, width)
        self.attention_norm, self.output_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (..., n, query_width) and keys (..., m, key_width) to (..., n, width)."""
        query = self.query(queries)
        attended = functional.scaled_dot_product_attention(
            self._split(query),
            self._split(self.key(keys)),
            self._split(self.value(keys)),
            scale=self.scale,
        )
        hidden = self.attention_norm(query + attended.transpose(-3, -2).flatten(-2))
        return self.output_norm(hidden + functional.relu(self.output(hidden)))

    def _split(self, rows: Tensor) -> Tensor:
        """(..., n, width) to (..., heads, n, width / heads)."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class SetBlock(nn.Module):
    """Every point of a set attends to every other: O(n^2).

    Args:
        inputs: channels of a point.
        width: channels of the output.
        heads: number of attention heads.
    """

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.attention = AttentionBlock(inputs, inputs, width, heads)

    def forward(self, points: Tensor) -> Tensor:
        """Points (..., n, inputs) to (..., n, width)."""
        return self.attention(points, points)


class InducedBlock(nn.Module):
    """The set is summarised by a few learned queries, and every point attends to these: O(n).

    Args:
        inputs: channels of a point.
        width: channels of the output.
        heads: number of attention heads.
        inducing: number of learned queries.

    Raises:
        ValueError: for fewer than 1 learned query.
    """

    def __init__(self, inputs: int, width: int, heads: int, inducing: int) -> None:
        super().__init__()
        at_least(1, inducing=inducing)
        self.inducing = nn.Parameter(torch.empty(inducing, width))
        nn.init.xavier_uniform_(self.inducing)
        self.summary = AttentionBlock(width, inputs, width, heads)
        self.attention = AttentionBlock(inputs, width, width, heads)

    def forward(self, points: Tensor) -> Tensor:
        """Points (..., n, inputs) to (..., n, width)."""
        queries = self.inducing.expand(*points.shape[:-2], -1, -1)
        return self.attention(points, self.summary(queries, points))


class SetTransformer(nn.Module):
    """Two induced blocks, two set blocks, a linear layer for each point; no pooling.

    Args:
        inputs: channels of a point.
        outputs: channels of a point's output.
        width: channels in between, a multiple of `heads`.
        heads: number of attention heads.
        inducing: learned queries of each induced block.

    Raises:
        ValueError: for sizes that are not positive, or a width that the heads cannot share.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 64, heads: int = 4, inducing: int = 16
    ) -> None:
        super().__init__()
        at_least(1, inputs=inputs, outputs=outputs)
        self.blocks = nn.Sequential(
            InducedBlock(inputs, width, heads, inducing),
            InducedBlock(width, width, heads, inducing),
            SetBlock(width, width, heads),
            SetBlock(width, width, heads),
        )
        self.head = nn.Linear(width, outputs)

    def reset_parameters(self) -> None:
        """Draws fresh initial weights from torch's global generator."""
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.LayerNorm)):
                part.reset_parameters()
            elif isinstance(part, InducedBlock):
                nn.init.xavier_uniform_(part.inducing)

    def forward(self, points: Tensor) -> Tensor:
        """Points (..., n, inputs) to (..., n, outputs); a permuted set gives permuted outputs."""
        return self.head(self.blocks(points))
