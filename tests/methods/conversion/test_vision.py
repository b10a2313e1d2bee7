"""timm's vision transformers with another attention."""

from __future__ import annotations

import pytest
import timm
import torch

from sextant.conversion import convert
from tests.methods.conversion.models import picture_model

KINDS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_softmax_for_softmax_changes_no_logit(kind):
    model = picture_model(kind, qk_norm=kind.startswith("vit"))
    for options in ({}, {"softmax_class_token": True}, {"convolution": 3}):
        same = convert(model, "softmax", **options)
        assert (model(PICTURES) - same(PICTURES)).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_and_come_back(kind, tmp_path):
    model = picture_model(kind)
    torch.manual_seed(1)
    converted = convert(model, "luna", convolution=3, softmax_class_token=True)
    weights = converted.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    torch.save(weights, tmp_path / "weights.pt")
    again = convert(picture_model(kind, seed=4), "luna", convolution=3, softmax_class_token=True)
    again.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(again(PICTURES), converted(PICTURES))


def test_class_token_and_convolution_do_what_they_say():
    model = picture_model("vit_tiny_patch16_224", depth=1)
    plain, kept = (convert(model, "linear_transformer", softmax_class_token=k) for k in (0, 1))
    # With one layer and the class token read out, its own softmax row is all that matters.
    assert (kept(PICTURES) - model(PICTURES)).abs().max() < 1e-6
    assert (plain(PICTURES) - model(PICTURES)).abs().max() > 1e-3
    mixed = convert(picture_model(), "linear_transformer", convolution=3)
    layer = mixed.blocks[0].attn.converted
    before = layer(*(torch.ones(1, 2, 18, 8),) * 3)
    torch.nn.init.dirac_(layer.convolution.weight, groups=16)
    change = layer(*(torch.ones(1, 2, 18, 8),) * 3) - before
    # The class and distillation tokens stay; with a kernel of 1 in the middle patches get values.
    assert change[:, :, :2].abs().max() == 0
    torch.testing.assert_close(change[:, :, 2:], torch.ones(1, 2, 16, 8))
    mixed(PICTURES).sum().backward()
    assert layer.convolution.weight.grad.abs().max() > 0


def test_masks_checkpointing_and_autocast():
    converted = convert(picture_model(), "luna")
    attention = converted.blocks[0].attn
    tokens = torch.randn(2, 18, 16)
    keep = torch.ones(1, 1, 1, 18, dtype=torch.bool)
    keep[..., 12:] = False
    short = attention(tokens[:, :12])
    torch.testing.assert_close(
        attention(tokens, attn_mask=keep)[:, :12], short, atol=1e-6, rtol=1e-5
    )
    with pytest.raises(ValueError, match="is_causal must be False"):
        attention(tokens, is_causal=True)
    logits = converted(PICTURES)
    converted.set_grad_checkpointing()
    torch.testing.assert_close(converted.train()(PICTURES), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (converted(PICTURES).float() - logits).abs().max() < 0.3


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("vit_relpos_small_patch16_224", "RelPosAttention"),
        ("beit_base_patch16_224", "Attention"),
        ("swin_tiny_patch4_window7_224", "WindowAttention"),
    ],
)
def test_positions_inside_attention_are_refused_by_name(kind, name):
    with torch.device("meta"):
        model = timm.create_model(kind, depth=1) if "swin" not in kind else timm.create_model(kind)
    with pytest.raises(ValueError, match=rf"attends through .*{name}"):
        convert(model)


def test_a_convolution_needs_a_grid_and_an_odd_side():
    with pytest.raises(ValueError, match="convolution must be odd"):
        convert(picture_model(), convolution=2)
