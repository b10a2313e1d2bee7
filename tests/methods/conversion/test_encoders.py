"""Encoders with another attention: what stays, what is honoured, what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers

from sextant.conversion import convert, load
from sextant.methods.conversion.maps import MAPS
from tests.methods.conversion.models import ENCODERS, encoder, sentences

LINEAR = [name for name in MAPS if name != "softmax"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_softmax_for_softmax_changes_no_logit(kind):
    model, batch = encoder(kind), sentences()
    same = convert(model, "softmax")
    assert (model(**batch).logits - same(**batch).logits).abs().max() < 1e-6
    # The model itself stays as it was.
    assert model.config._attn_implementation != same.config._attn_implementation


@pytest.mark.parametrize("kind", ENCODERS)
def test_weights_stay_and_padding_is_like_no_padding(kind):
    model, batch = encoder(kind), sentences()
    converted = convert(model, "luna")
    weights = converted.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert len(weights) > len(model.state_dict())
    logits = converted(**batch).logits
    assert not torch.allclose(logits, model(**batch).logits, atol=1e-3)
    short = {name: tensor[1:, :6] for name, tensor in batch.items()}
    torch.testing.assert_close(logits[1:], converted(**short).logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_every_map_heeds_the_mask_and_learns(name):
    batch = sentences()
    converted = convert(encoder(), name)
    logits = converted(**batch).logits
    changed = dict(batch, input_ids=batch["input_ids"].clone())
    changed["input_ids"][1:, 6:] = 3
    torch.testing.assert_close(logits, converted(**changed).logits, atol=2e-6, rtol=1e-5)
    logits.square().sum().backward()
    for part in converted.parameters():
        assert part.grad is None or part.grad.isfinite().all()
    maps = [p for n, p in converted.named_parameters() if ".converted." in n]
    assert all(part.grad is not None for part in maps)


@pytest.mark.parametrize("form", ["boolean", "additive"])
def test_whole_masks_are_read_either_way(form):
    batch, converted = sentences(), convert(encoder(), "luna")
    keep = batch["attention_mask"].bool()[:, None, None, :].expand(-1, 1, 9, -1)
    mask = keep if form == "boolean" else torch.zeros(keep.shape).masked_fill(
        ~keep, torch.finfo(torch.float32).min)  # fmt: skip
    logits = converted(batch["input_ids"], attention_mask=mask).logits
    torch.testing.assert_close(logits, converted(**batch).logits)


def test_masks_that_need_a_matrix_are_refused():
    ids, converted = sentences()["input_ids"], convert(encoder(), "luna")
    with pytest.raises(ValueError, match="hide the same keys from every query"):
        converted(ids, attention_mask=torch.ones(9, 9).tril().bool()[None, None])
    with pytest.raises(ValueError, match="serves no biases"):
        converted(ids, attention_mask=torch.full((3, 1, 1, 9), -1.0))


@pytest.mark.parametrize("name", ["softmax", "luna", "hedgehog"])
def test_attention_rows_are_those_the_output_is_made_of(name):
    model, batch = encoder(), sentences()
    converted = convert(model, name)
    rows = converted(**batch, output_attentions=True).attentions
    assert len(rows) == 2
    assert rows[0].shape == (3, 2, 9, 9)
    assert rows[0][1:, :, :, 6:].abs().max() == 0
    torch.testing.assert_close(rows[0].sum(-1), torch.ones(3, 2, 9))
    if name == "softmax":
        model.set_attn_implementation("eager")
        plain = model(**batch, output_attentions=True).attentions
        torch.testing.assert_close(rows[1], plain[1], atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    batch, gradients = sentences(), []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        converted = convert(encoder(), "luna").train()
        for part in converted.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        if checkpointing:
            converted.gradient_checkpointing_enable()
        converted(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
        gradients.append([p.grad for n, p in converted.named_parameters() if ".converted." in n])
    assert any(grad.abs().max() > 0 for grad in gradients[0])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_autocast_stays_near_and_maps_stay_float32():
    batch, converted = sentences(), convert(encoder(), "luna")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = converted(**batch).logits
    assert (near.float() - converted(**batch).logits).abs().max() < 0.2
    half = convert(encoder().to(torch.bfloat16), "luna")
    assert {p.dtype for n, p in half.named_parameters() if ".converted." in n} == {torch.float32}
    assert half(**batch).logits.dtype == torch.bfloat16


def test_saved_and_read_again(tmp_path):
    batch, converted = sentences(), convert(encoder(), "luna", features=16, channels=4)
    converted.save_pretrained(tmp_path)
    again = load(transformers.AutoModelForSequenceClassification, tmp_path)
    assert torch.equal(again(**batch).logits, converted(**batch).logits)
    other = convert(encoder(seed=5), "luna", features=16, channels=4)
    other.load_state_dict(converted.state_dict())
    assert torch.equal(other(**batch).logits, converted(**batch).logits)
    # Read as if it were a plain model, it never answers with softmax.
    with pytest.raises(RuntimeError, match="has no converted attention"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)(**batch)
    script = f"""
import transformers
try:
    transformers.AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r})
except ValueError as error:
    assert "sextant" in str(error), error
else:
    raise SystemExit("it was read without its attention")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_cannot_be_converted_is_refused_by_name():
    tiny = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8}  # fmt: skip
    deberta = transformers.DebertaV2Model(transformers.DebertaV2Config(**tiny))
    with pytest.raises(ValueError, match="DebertaV2Model does not take its attention from"):
        convert(deberta)
    relative = transformers.BertModel(
        transformers.BertConfig(**tiny, position_embedding_type="relative_key")
    )
    with pytest.raises(ValueError, match="BertModel has positions of type 'relative_key'"):
        convert(relative)
    windows = transformers.ModernBertModel(
        transformers.ModernBertConfig(**{**tiny, "num_hidden_layers": 2}, pad_token_id=0)
    )
    with pytest.raises(ValueError, match="ModernBertModel has layers that see a window"):
        convert(windows)
    both = transformers.BartModel(
        transformers.BartConfig(vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2)
    )  # fmt: skip
    with pytest.raises(ValueError, match="BartModel attends across two sequences"):
        convert(both)
    with pytest.raises(TypeError, match="must be of transformers or timm, got Linear"):
        convert(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"attention must be one of .*, got 'lunar'"):
        convert(encoder(), "lunar")
    with pytest.raises(TypeError, match="luna has no setting 'feature'"):
        convert(encoder(), "luna", feature=3)
    with pytest.raises(ValueError, match="is converted already"):
        convert(convert(encoder()))


def test_lost_dropout_is_said():
    model = encoder()
    model.config.attention_probs_dropout_prob = 0.1
    with pytest.warns(UserWarning, match=r"dropped 0.1 of its attention weights"):
        convert(model, "luna")
