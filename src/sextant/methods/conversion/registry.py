"""Models of transformers, through the attention registry of that library."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sextant.methods.attention.base import Attention
from sextant.methods.conversion import maps
from sextant.methods.conversion.masks import key_mask_for_registry, key_mask_from
from sextant.methods.conversion.substitute import CausalAttention, ConvertedAttention

NAME = "sextant"
"""Of the converted attention in the registry, and so in `config._attn_implementation`."""
RECORD = "sextant_conversion"
"""Of the config's entry that says what a model was converted to."""
UNSERVED = ("position_bias", "s_aux", "softcap", "sliding_window", "block_mask", "cu_seq_lens_q")
"""Arguments of an attention function that ask for more than queries, keys and a mask."""


def converted_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    output_attentions: bool | None = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function in the registry: asks the layer's own `converted` module.

    Dropout of attention weights is not applied, as `convert` says.

    Returns:
        (B, N, H, D_v), and the rows (B, H, N, M) where `output_attentions` asks for them.
    """
    converted = getattr(module, "converted", None)
    if converted is None:
        raise RuntimeError(
            f"{type(module).__name__} has no converted attention; convert(model, ...) makes one, "
            "and sextant.conversion.load reads a saved one"
        )
    for name in UNSERVED:
        if others.get(name) is not None:
            raise ValueError(f"{name} must not be given to a converted model")
    key_mask = key_mask_from(attention_mask, key.shape[2])
    if key_mask is not None and len(key_mask) != len(query):
        key_mask = key_mask.expand(len(query), -1)
    output = converted(query, key, value, key_mask, scaling)
    if not output_attentions:
        return output.transpose(1, 2), None
    return output.transpose(1, 2), converted.weights_of(query, key, key_mask, scaling)


AttentionInterface.register(NAME, converted_attention)
AttentionMaskInterface.register(NAME, key_mask_for_registry)


def layers_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules that ask the registry for their attention, by name."""
    found = {}
    for name, module in model.named_modules():
        code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
        if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
            found[name] = module
    return found


def check(model: PreTrainedModel, attention: str | Attention, settings: dict[str, Any]) -> None:
    """Raises a ValueError that names the model for one that cannot be converted."""
    kind, config = type(model).__name__, model.config
    layers = layers_of(model)
    if getattr(config, "is_encoder_decoder", False) or any(map(crossed, layers.values())):
        raise ValueError(f"{kind} attends across two sequences, which is not converted")
    if not layers or not model._supports_attention_backend:
        raise ValueError(f"{kind} does not take its attention from transformers' registry")
    position = getattr(config, "position_embedding_type", None) or "absolute"
    if position not in ("absolute", "rope"):
        raise ValueError(f"{kind} has positions of type {position!r} inside its attention")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        raise ValueError(f"{kind} has layers that see a window of the tokens only")
    shared = getattr(config, "num_key_value_heads", None)
    if shared not in (None, config.num_attention_heads):
        raise ValueError(f"{kind} shares keys among heads ({shared} for all), not converted")
    if getattr(config, "output_attentions", False):
        raise ValueError("output_attentions must be asked for in the call, not in the config")
    maps.check(attention, settings, causal=any(map(is_causal, layers.values())))


def is_causal(layer: nn.Module) -> bool:
    """Whether a layer's tokens must not see those after them."""
    return bool(getattr(layer, "is_causal", False))


def crossed(layer: nn.Module) -> bool:
    """Whether a layer's keys come from another sequence."""
    return "Cross" in type(layer).__name__ or bool(getattr(layer, "is_cross_attention", False))


def convert(model: PreTrainedModel, attention: str | Attention, settings: dict[str, Any]) -> None:
    """Converts a checked model in place and notes how in its config."""
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    length = getattr(config, "max_position_embeddings", None)
    given = next(model.parameters())
    dtype = torch.float64 if given.dtype == torch.float64 else torch.float32
    for layer in layers_of(model).values():
        own = maps.build(attention, heads, width, length, settings)
        new = CausalAttention(own) if is_causal(layer) else ConvertedAttention(own)
        layer.converted = new.to(given.device, dtype).train(model.training)
    if any(map(is_causal, layers_of(model).values())):
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                part.register_forward_pre_hook(refuse_weights, with_kwargs=True)
    warn_of_dropout(model, maps.name_of(attention))
    model.set_attn_implementation(NAME)
    # What was given as a module has no settings that a config could hold, and `load` says so.
    if isinstance(attention, str):
        setattr(config, RECORD, {"attention": attention, **settings})
    # Read again, it makes transformers itself refuse the folder wherever Sextant is not imported.
    config.attn_implementation = NAME


def warn_of_dropout(model: PreTrainedModel, attention: str) -> None:
    """Says that a converted model drops no attention weights, where the model did."""
    names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    rate = max(getattr(model.config, name, 0.0) or 0.0 for name in names)
    if rate > 0:
        warnings.warn(
            f"{type(model).__name__} dropped {rate:g} of its attention weights in training; "
            f"converted to {attention} it drops none",
            stacklevel=4,
        )


def refuse_weights(module: nn.Module, _: Any, options: dict[str, Any]) -> None:
    """A decoder is asked for attention weights, which a state does not have."""
    if options.get("output_attentions"):
        raise ValueError("output_attentions must be False for a converted decoder")


def load(kind: Any, folder: str | Path) -> PreTrainedModel:
    """A converted model from where its `save_pretrained` put it.

    Args:
        kind: the model's class, or one of transformers' Auto classes.
        folder: with a config and safetensors.

    Raises:
        ValueError: for a folder without a converted model, or with weights that do not fit.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    record = dict(getattr(config, RECORD, None) or {})
    files = sorted(Path(folder).glob("*.safetensors"))
    if not record or not files:
        raise ValueError(f"{folder} must hold a converted model with its safetensors")
    config._attn_implementation = None
    model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It was said when the model was converted.
        convert(model, record.pop("attention"), record)
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    missing, unknown = model.load_state_dict(weights, strict=False, assign=True)
    tied = set(model.all_tied_weights_keys)
    if unknown or set(missing) - tied:
        odd = sorted({*unknown, *(set(missing) - tied)})
        raise ValueError(f"{folder} has weights that do not fit {type(model).__name__}: {odd}")
    model.tie_weights()
    return model.eval()
