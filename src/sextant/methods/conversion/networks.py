"""The models that the exams convert, made from their sizes, with one call for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.attention.base import Attention
from sextant.methods.conversion.convert import convert

Inputs = Mapping[str, Tensor]


class SentenceScorer(nn.Module):
    """A BERT with a head on its first token: classes, or one number.

    Args:
        vocabulary, width, layers, heads, hidden, length: sizes of the encoder.
        outputs: classes, or 1 for a number.
        dropout: of hidden states and of attention weights.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        length: int,
        outputs: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=hidden,
            max_position_embeddings=length,
            num_labels=outputs,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.outputs = outputs
        self.model = BertForSequenceClassification(config)

    def read(self, start: str | Path) -> None:
        """Takes the encoder's weights from a folder or a name of the hub; the head stays.

        Raises:
            ValueError: for an encoder of other sizes.
        """
        from transformers import BertModel

        encoder = BertModel.from_pretrained(start)
        try:
            self.model.bert.load_state_dict(encoder.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{start} must hold an encoder of the task's sizes") from error

    def forward(self, inputs: Inputs) -> Tensor:
        """`input_ids`, `attention_mask` and `token_type_ids` (B, N) to scores (B, outputs); padding
        stands at the end."""
        longest = int(inputs["attention_mask"].sum(1).max())
        return self.model(**{name: part[:, :longest] for name, part in inputs.items()}).logits


class PictureScorer(nn.Module):
    """A vision transformer of timm with a class token.

    Args:
        side, patch: pixels of a picture's and a patch's side.
        width, layers, heads: sizes; the hidden layers are 4 times as wide.
        outputs: classes.
        dropout: of hidden states.
    """

    def __init__(
        self,
        side: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.outputs = outputs
        self.model = VisionTransformer(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            num_classes=outputs,
            proj_drop_rate=dropout,
            pos_drop_rate=dropout,
        )

    def read(self, start: str | Path) -> None:
        """Takes the weights of a timm model from the hub, but for its head.

        Raises:
            ValueError: for a model of other sizes.
        """
        import timm

        own = self.model.state_dict()
        found = timm.create_model(str(start), pretrained=True).state_dict()
        found = {name: tensor for name, tensor in found.items() if not name.startswith("head.")}
        if any(name not in own or own[name].shape != found[name].shape for name in found):
            raise ValueError(f"{start} must be a model of the task's sizes")
        self.model.load_state_dict(found, strict=False)

    def forward(self, inputs: Inputs) -> Tensor:
        """`pixels` (B, 3, side, side) to scores (B, outputs)."""
        return self.model(inputs["pixels"])


class LinearPictureScorer(nn.Module):
    """A linear classifier of pixels, what a picture model has to be held against.

    Args:
        side: pixels.
        outputs: classes.
    """

    def __init__(self, side: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.model = nn.Linear(3 * side**2, outputs)

    def forward(self, inputs: Inputs) -> Tensor:
        """`pixels` (B, 3, side, side) to scores (B, outputs)."""
        return self.model(inputs["pixels"].flatten(1))


def converted_network(
    network: nn.Module,
    attention: Attention,
    softmax_class_token: bool = False,
    convolution: int = 0,
) -> nn.Module:
    """The network with the model inside it converted, in place."""
    with warnings.catch_warnings():
        # The tables' pages say that converted models drop no attention weights.
        warnings.filterwarnings("ignore", message=".*of its attention weights in training.*")
        network.model = convert(
            network.model,
            attention,
            softmax_class_token=softmax_class_token,
            convolution=convolution,
            in_place=True,
        )
    return network


def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes (B,) int64, or squared error of numbers (B,) where there is one."""
    if scores.shape[1] == 1:
        return functional.mse_loss(scores[:, 0], labels)
    return functional.cross_entropy(scores, labels)


@torch.no_grad()
def answers(network: nn.Module, inputs: Inputs, chunk: int = 128) -> Tensor:
    """Scores (n, outputs) in evaluation mode, in chunks, back where the inputs are."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    count = len(next(iter(inputs.values())))
    found = []
    for begin in range(0, count, chunk):
        rows = {name: part[begin : begin + chunk].to(device) for name, part in inputs.items()}
        found.append(network(rows).float().cpu())
    network.train(training)
    return torch.cat(found)
