"""Tiny models with random weights, from config alone."""

from __future__ import annotations

import timm
import torch
import transformers

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "attention_probs_dropout_prob": 0.0,
}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "minilm": lambda: transformers.BertConfig(
        **{**SMALL, "hidden_size": 24, "num_attention_heads": 3}
    ),
    "roberta": lambda: transformers.RobertaConfig(**SMALL, pad_token_id=1),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=8),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=24,
        attention_dropout=0.0,
    ),
}  # fmt: skip
ENCODERS = tuple(CONFIGS)


def encoder(kind="bert", seed=0):
    """A sequence classifier of two classes."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(CONFIGS[kind]())
    return larger(model).eval()


def decoder(seed=0):
    """A GPT-2 with 2 layers."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return larger(transformers.GPT2LMHeadModel(config)).eval()


def picture_model(kind="deit_tiny_distilled_patch16_224", seed=0, **settings):
    """A vision transformer for 16 x 16 pixels in 4 x 4 patches."""
    torch.manual_seed(seed)
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return larger(timm.create_model(kind, num_classes=3, **(size | settings))).eval()


def larger(model):
    """Weights large enough that attention is far from even."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2 and "embed" not in name:
                tensor.mul_(0.3 / tensor.std())
    return model


def sentences(rows=3, tokens=9, seed=1):
    """Token numbers and a mask with some padding at the end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, tokens), generator=generator)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[1:, tokens - 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
