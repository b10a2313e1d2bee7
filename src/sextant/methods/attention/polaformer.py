"""Linear attention that keeps the sign of queries and keys (Meng et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.attention.base import Attention, linear_attention, masked
from sextant.ranges import at_least


class PolaformerAttention(Attention):
    """Same-sign and opposite-sign streams with learned powers (arXiv 2501.15061).

    With x+ = relu(x / s)^p and x- = relu(-x / s)^p, s = softplus of a learned number (0 at the
    start) and p = 1 + alpha sigmoid of another, for each head and channel: the first half of the
    value channels is mixed by phi(q) = [q+, q-], the second by [q-, q+], both against
    phi(k) = [k+, k-] and normalised. The outputs are multiplied by gates.

    In the paper the gates are linear in the layer's input; an attention sees none, and here they
    are linear in the query of their head. The paper's convolution on the values is the encoder's.

    O((N + M) D (D + D_v)) time and O((N + M) D) memory a head; H D (2 + D_v) parameters.

    Args:
        heads: H.
        head_dimension: D.
        length: accepted and checked, else unused.
        alpha: the largest power less 1, positive; the printed rows have 3, 5 and 7.
        gated: False leaves the gates out.
        value_dimension: D_v where gated; None is D.
        epsilon: the smallest denominator.

    Raises:
        ValueError: for an alpha or epsilon that is not positive, or a D_v below 1.
    """

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int | None = None,
        alpha: float = 3.0,
        gated: bool = True,
        value_dimension: int | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        for name, number in {"alpha": alpha, "epsilon": epsilon}.items():
            if not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if value_dimension is not None:
            at_least(1, value_dimension=value_dimension)
        self.alpha, self.epsilon = alpha, epsilon
        self.scale = nn.Parameter(torch.empty(heads, 1, head_dimension))
        self.power = nn.Parameter(torch.empty(heads, 1, head_dimension))
        self.gate = None
        if gated:
            shape = (heads, head_dimension, value_dimension or head_dimension)
            self.gate = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales and powers to 0, gates as torch draws a linear layer, from its generator."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.power)
        if self.gate is not None:
            bound = self.gate.shape[1] ** -0.5
            nn.init.uniform_(self.gate, -bound, bound)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`.

        Raises:
            ValueError: for values of another width than the gates'.
        """
        if self.gate is not None and values.shape[-1] != self.gate.shape[-1]:
            raise ValueError(
                f"values must be {self.gate.shape[-1]} wide as the gates, got {values.shape[-1]}"
            )
        positive, negative = self._signs(queries)
        key_features = masked(torch.cat(self._signs(keys), -1), key_mask)
        streams = (torch.cat((positive, negative), -1), torch.cat((negative, positive), -1))
        half = (values.shape[-1] + 1) // 2
        halves = (values[..., :half], values[..., half:])
        outputs = [
            linear_attention(features, key_features, part, key_mask, self.epsilon)
            for features, part in zip(streams, halves, strict=True)
        ]
        output = torch.cat(outputs, -1)
        return output if self.gate is None else output * (queries @ self.gate.to(queries.dtype))

    def _signs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Powers of the positive and of the negative parts, both not negative."""
        rows = rows / functional.softplus(self.scale.to(rows.dtype))
        power = 1.0 + self.alpha * self.power.to(rows.dtype).sigmoid()
        return rows.relu() ** power, (-rows).relu() ** power
