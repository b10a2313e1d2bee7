"""Vision transformers of timm, whose attention modules are replaced by their type."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor, nn

from sextant.methods.attention.base import Attention
from sextant.methods.conversion import maps
from sextant.methods.conversion.masks import key_mask_from
from sextant.methods.conversion.substitute import ConvertedAttention

POOLS = ("AttentionPoolLatent", "AttentionPoolPrr", "AttentionPool2d")
"""Modules that read a picture out with one query, at linear cost already: left as they are."""


class ConvertedVisionAttention(nn.Module):
    """timm's `Attention` around another one; its projections and norms are the same modules.

    Args:
        old: the module that is replaced.
        converted: what stands between its projections.
    """

    def __init__(self, old: TimmAttention, converted: ConvertedAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = old.num_heads, old.head_dim, old.scale
        self.attn_dim = old.attn_dim
        self.qkv, self.q_norm, self.k_norm = old.qkv, old.q_norm, old.k_norm
        self.norm, self.gate = old.norm, old.gate
        self.proj, self.proj_drop = old.proj, old.proj_drop
        self.converted = converted

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, N, C) to (B, N, C).

        Raises:
            ValueError: for a causal call, or a mask that does more than hide keys from all.
        """
        if is_causal:
            raise ValueError("is_causal must be False: a converted picture model sees all tokens")
        batch, count, _ = x.shape
        rows = self.qkv(x).reshape(batch, count, 3, self.num_heads, self.head_dim)
        queries, keys, values = rows.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = self.q_norm(queries).to(values.dtype), self.k_norm(keys).to(values.dtype)
        key_mask = key_mask_from(attn_mask, count)
        if key_mask is not None:
            key_mask = key_mask.expand(batch, -1)
        mixed = self.converted(queries, keys, values, key_mask, self.scale)
        mixed = self.norm(mixed.transpose(1, 2).reshape(batch, count, self.attn_dim))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed))


def check(model: nn.Module) -> None:
    """Raises a ValueError that names the model for one that cannot be converted."""
    kinds = {type(module).__name__: type(module) for module in model.modules()}
    others = sorted(
        name
        for name, kind in kinds.items()
        if "Attention" in name and kind is not TimmAttention and name not in POOLS
    )
    if others:
        raise ValueError(
            f"{type(model).__name__} attends through {', '.join(others)}, which carries positions "
            "or windows of its own; only timm's plain Attention is converted"
        )
    if TimmAttention not in kinds.values():
        raise ValueError(f"{type(model).__name__} has no attention module of timm to replace")


def convert(
    model: nn.Module,
    attention: str | Attention,
    settings: dict[str, Any],
    softmax_class_token: bool,
    convolution: int,
) -> None:
    """Converts a checked model in place."""
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    embedding = getattr(model, "patch_embed", None)
    grid = getattr(embedding, "grid_size", None)
    patches = getattr(embedding, "num_patches", None)
    length = None if patches is None else patches + prefix
    given = next(model.parameters())
    dtype = torch.float64 if given.dtype == torch.float64 else torch.float32
    rate = 0.0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not TimmAttention:
                continue
            rate = max(rate, child.attn_drop.p)
            new = ConvertedAttention(
                maps.build(attention, child.num_heads, child.head_dim, length, settings),
                prefix=prefix,
                softmax_prefix=softmax_class_token,
                grid=grid,
                convolution=convolution,
                width=child.attn_dim,
            )
            new = new.to(given.device, dtype).train(model.training)
            setattr(parent, name, ConvertedVisionAttention(child, new))
    if rate > 0:
        warnings.warn(
            f"{type(model).__name__} dropped {rate:g} of its attention weights in training; "
            f"converted to {maps.name_of(attention)} it drops none",
            stacklevel=3,
        )
