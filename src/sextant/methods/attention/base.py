"""What every attention is called with, checked in one place, and the linear form many share."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sextant.methods.numerics import widened


class Attention(nn.Module):
    """An attention that is called with queries, keys, values and a key mask.

    A subclass writes `attend`; `forward` checks the shapes, keeps what stands in masked rows out of
    it and gives it float32 (or float64) tensors, outside of autocast, whatever comes in. What it
    promises beyond that is said by its attributes, which the tests hold it to:

    - `masking`: a masked key is like a deleted one `anywhere`; `at the end` alone, where a token
      counts by its position; or the sequence is cut into blocks `by position`, masked ones too.
    - `quadratic`: whether a step needs memory of N M numbers; else it grows with N + M.
    - `learns_through`: which of queries and keys get a gradient.

    Args:
        heads: H, or None where any number is fine.
        head_dimension: D of queries and keys, or None where any is fine.
        length: the largest number of queries or keys, or None where any is fine.

    Raises:
        ValueError: for a given size below 1.
    """

    masking: ClassVar[Literal["anywhere", "at the end", "by position"]] = "anywhere"
    quadratic: ClassVar[bool] = False
    learns_through: ClassVar[tuple[str, ...]] = ("queries", "keys")

    def __init__(
        self,
        heads: int | None = None,
        head_dimension: int | None = None,
        length: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"heads": heads, "head_dimension": head_dimension, "length": length}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {size}")
        self.heads, self.head_dimension, self.length = heads, head_dimension, length

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """One row of mixed values for each query.

        Args:
            queries: (B, H, N, D), floating point.
            keys: (B, H, M, D), like the queries in dtype and device.
            values: (B, H, M, D_v), likewise.
            key_mask: (B, M) bool, True for a real token; None where all are real.

        Returns:
            (B, H, N, D_v) in the dtype of the queries; 0 where a query has no real token to see,
            or there are no keys at all.

        Raises:
            TypeError: for tensors of different or integer dtypes, or a mask that is not bool.
            ValueError: for shapes that do not go together.
        """
        self.check(queries, keys, values, key_mask)
        if nothing_to_mix(queries, keys):
            return queries.new_zeros(*queries.shape[:3], values.shape[3])
        if key_mask is not None:
            unreal = ~key_mask[:, None, :, None]
            keys, values = keys.masked_fill(unreal, 0), values.masked_fill(unreal, 0)
        with torch.autocast(queries.device.type, enabled=False):
            output = self.attend(widened(queries), widened(keys), widened(values), key_mask)
        return output.to(queries.dtype)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `forward`, on checked float32 or float64 tensors whose masked keys and values are 0.

        A key of 0 is not an absent key, so that a subclass still has to heed the mask. Queries of
        masked tokens come as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attend")

    def reset_parameters(self) -> None:
        """Draws what is learnt and what is random anew from torch's global generator."""
        for module in self.children():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def check(self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None) -> None:
        """Raises as `forward` says; costs no look at the numbers."""
        tensors = {"queries": queries, "keys": keys, "values": values}
        for name, tensor in tensors.items():
            if tensor.ndim != 4:
                raise ValueError(
                    f"{name} must be (batch, heads, tokens, width), got {tuple(tensor.shape)}"
                )
            if not tensor.is_floating_point() or tensor.dtype != queries.dtype:
                raise TypeError(
                    f"{name} must be floating point like the queries, "
                    f"got {tensor.dtype} beside {queries.dtype}"
                )
            if tensor.shape[:2] != queries.shape[:2]:
                raise ValueError(
                    f"{name} must have the batch and heads of the queries "
                    f"{tuple(queries.shape[:2])}, got {tuple(tensor.shape[:2])}"
                )
        if keys.shape[3] != queries.shape[3]:
            raise ValueError(
                f"keys must be as wide as the queries ({queries.shape[3]}), got {keys.shape[3]}"
            )
        if values.shape[2] != keys.shape[2]:
            raise ValueError(
                f"values must be as many as the keys ({keys.shape[2]}), got {values.shape[2]}"
            )
        if self.heads is not None and queries.shape[1] != self.heads:
            raise ValueError(f"queries must have {self.heads} heads, got {queries.shape[1]}")
        if self.head_dimension is not None and queries.shape[3] != self.head_dimension:
            raise ValueError(f"queries must be {self.head_dimension} wide, got {queries.shape[3]}")
        longest = max(queries.shape[2], keys.shape[2])
        if self.length is not None and longest > self.length:
            raise ValueError(f"queries and keys must be at most {self.length} long, got {longest}")
        if key_mask is None:
            return
        if key_mask.dtype != torch.bool:
            raise TypeError(f"key_mask must be bool, True for a real token, got {key_mask.dtype}")
        if key_mask.shape != (keys.shape[0], keys.shape[2]):
            raise ValueError(
                f"key_mask must be (batch, keys) = {(keys.shape[0], keys.shape[2])}, "
                f"got {tuple(key_mask.shape)}"
            )


def nothing_to_mix(queries: Tensor, keys: Tensor) -> bool:
    """Whether there are no keys, or no queries: the output is then 0, or empty."""
    return keys.shape[2] == 0 or 0 in queries.shape[:3]


def linear_attention(
    query_features: Tensor,
    key_features: Tensor,
    values: Tensor,
    key_mask: Tensor | None = None,
    epsilon: float = 1e-6,
) -> Tensor:
    """Attention through a feature map: phi(q) S / max(phi(q) z, epsilon).

    S = phi(K)^T V and z = phi(K)^T 1 are all that is kept of the keys.
    O((N + M) F D_v) time and O(F D_v) memory beyond the input and the output, a head.

    Args:
        query_features: (B, H, N, F).
        key_features: (B, H, M, F), masked here.
        values: (B, H, M, D_v).
        key_mask: (B, M) bool, True for a real token; None where all are real.
        epsilon: the smallest denominator, above 0.

    Returns:
        (B, H, N, D_v), float32 (float64 for float64 features), and computed so.
    """
    query_features, values = widened(query_features), widened(values)
    key_features = masked(widened(key_features), key_mask)
    with torch.autocast(values.device.type, enabled=False):
        summary = key_features.transpose(-1, -2) @ values
        total = key_features.sum(-2)
        return (query_features @ summary) / (query_features @ total[..., None]).clamp(min=epsilon)


def masked(features: Tensor, key_mask: Tensor | None) -> Tensor:
    """The features (B, H, M, F), 0 where `key_mask` (B, M) is False; whatever stood there."""
    return features if key_mask is None else features.masked_fill(~key_mask[:, None, :, None], 0)
