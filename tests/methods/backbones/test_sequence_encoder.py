"""The Arena's encoder: published sizes, torch's own encoder as a reference, masks and pooling."""

import pytest
import torch
from torch import nn

from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.performer import PerformerAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.backbones.sequence_encoder import SequenceClassifier

PUBLISHED = {
    "listops": (32, 2048, 10, False, 209_802),
    "text": (512, 4096, 2, False, 370_562),
    "retrieval": (512, 4096, 2, True, 395_138),
    "image": (256, 1024, 10, False, 158_602),
    "pathfinder": (512, 1024, 2, False, 173_954),
}
SMALL = {"width": 8, "heads": 2, "head_dimension": 4, "hidden": 12, "dropout": 0.0}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def build(attention=None, two_documents=False, length=10, seed=0, **changes):
    torch.manual_seed(seed)
    settings = SMALL | changes
    return SequenceClassifier(
        attention or SoftmaxAttention(), 20, length, 3, two_documents, **settings
    )


def batch(two_documents=False, length=10, seed=1):
    torch.manual_seed(seed)
    shape = (4, 2, length) if two_documents else (4, length)
    tokens = torch.randint(1, 20, shape)
    lengths = torch.randint(2, length, shape[:-1])
    return tokens, torch.arange(length) < lengths[..., None]


@pytest.mark.parametrize("task", PUBLISHED)
def test_parameter_counts_are_the_published_ones(task):
    vocabulary, length, classes, two_documents, count = PUBLISHED[task]
    softmax = SequenceClassifier(SoftmaxAttention(), vocabulary, length, classes, two_documents)
    assert parameters(softmax) == count
    luna = SequenceClassifier(LunaAttention(2, 32), vocabulary, length, classes, two_documents)
    assert parameters(luna) - count == 2 * 1176
    assert 0.015 * count > 2 * 1176


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_layers_are_torchs_encoder_layers(with_mask):
    network = build()
    tokens, mask = batch()
    mask = mask if with_mask else None
    hidden = network.tokens.weight[tokens] + network.positions
    for layer in network.layers:
        other = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        copies = {
            "self_attn.in_proj_weight": layer.inputs.weight,
            "self_attn.in_proj_bias": layer.inputs.bias,
            "self_attn.out_proj.weight": layer.output.weight,
            "self_attn.out_proj.bias": layer.output.bias,
            "linear1.weight": layer.feed_forward[0].weight,
            "linear1.bias": layer.feed_forward[0].bias,
            "linear2.weight": layer.feed_forward[3].weight,
            "linear2.bias": layer.feed_forward[3].bias,
            "norm1.weight": layer.attention_norm.weight,
            "norm1.bias": layer.attention_norm.bias,
            "norm2.weight": layer.feed_norm.weight,
            "norm2.bias": layer.feed_norm.bias,
        }
        other.load_state_dict(copies)
        hidden = other(hidden, src_key_padding_mask=None if mask is None else ~mask)
    rows = nn.functional.layer_norm(hidden, (8,), network.norm.weight, network.norm.bias)
    if mask is not None:
        rows = rows * mask[..., None]
    torch.testing.assert_close(network.encode(tokens, mask), rows)
    first, second = network.head[0], network.head[2]
    pooled = rows.sum(1) / 10
    scores = (pooled @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias
    torch.testing.assert_close(network(tokens, mask), scores)


def test_pooling_divides_by_the_full_length():
    network = build()
    tokens, _ = batch()
    mask = torch.arange(10).expand(4, 10) < 5
    rows = network.encode(tokens, mask)
    mean_of_real = rows[:, :5].mean(1)
    torch.testing.assert_close(network.features(tokens, mask), mean_of_real / 2)
    assert mean_of_real.abs().max() > 0.1


def test_what_stands_in_padding_changes_nothing():
    network = build(values_convolution=3)
    tokens, mask = batch()
    other = torch.where(mask, tokens, 19 - tokens)
    assert not torch.equal(other, tokens)
    torch.testing.assert_close(network(other, mask), network(tokens, mask))


def test_two_documents_are_read_apart():
    network, single = build(two_documents=True), build()
    single.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("head")}, strict=False
    )
    tokens, mask = batch(two_documents=True)
    first, second = (single.features(tokens[:, k], mask[:, k]) for k in (0, 1))
    expected = torch.cat((first, second, first * second, first - second), 1)
    torch.testing.assert_close(network.features(tokens, mask), expected)
    assert network(tokens, mask).shape == (4, 3)


def test_the_convolution_mixes_neighbouring_values():
    attention = SoftmaxAttention()
    plain, network = build(attention), build(attention, values_convolution=3)
    assert parameters(network) - parameters(plain) == 2 * 8 * 3
    layer, rows = network.layers[0], torch.randn(2, 10, 8)
    mask = torch.arange(10).expand(2, 10) < 7
    with torch.no_grad():
        values = layer.inputs(rows)[..., 16:] * mask[..., None]
        padded = nn.functional.pad(values, (0, 0, 1, 1))
        weight = layer.convolution.weight[:, 0]
        near = sum(padded[:, k : k + 10] * weight[:, k] for k in range(3))
        found = layer._attended(rows, mask)
        layer.convolution.weight.zero_()
        without = layer._attended(rows, mask)
    torch.testing.assert_close(found - without, near @ layer.output.weight.T)


def test_layers_have_attentions_of_their_own():
    prototype = PerformerAttention(4, features=6)
    before = prototype.projection.clone()
    network = build(prototype)
    drawn = [layer.attention.projection for layer in network.layers]
    assert not torch.equal(*drawn)
    assert all(not torch.equal(entry, before) for entry in drawn)
    assert torch.equal(prototype.projection, before)
    again = build(prototype)
    assert torch.equal(again.layers[1].attention.projection, drawn[1])


@pytest.mark.parametrize("attention", [SoftmaxAttention(), LunaAttention(2, 4, features=16)])
def test_autocast_keeps_the_scores_in_float32(attention):
    network = build(attention)
    tokens, mask = batch()
    plain = network(tokens, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(tokens, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=0, atol=0.02)
    assert not torch.equal(found, plain)


def test_dropout_is_active_in_training_alone():
    network = build(dropout=0.5)
    tokens, mask = batch()
    assert not torch.equal(network(tokens, mask), network(tokens, mask))
    network.eval()
    assert torch.equal(network(tokens, mask), network(tokens, mask))


def test_embeddings_start_small():
    torch.manual_seed(0)
    network = SequenceClassifier(SoftmaxAttention(), 512, 1024, 2)
    for weight in (network.tokens.weight, network.positions):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_bad_settings_and_inputs_are_named():
    for name, value in {"width": 0, "layers": 0, "hidden": 0, "dropout": 1.0}.items():
        with pytest.raises(ValueError, match=name):
            build(**{name: value})
    for width in (0, 4):
        with pytest.raises(ValueError, match="values_convolution"):
            build(values_convolution=width)
    with pytest.raises(ValueError, match="classes"):
        SequenceClassifier(SoftmaxAttention(), 5, 5, 1)
    with pytest.raises(ValueError, match="attention must have heads 2, got 3"):
        build(SoftmaxAttention(heads=3))
    with pytest.raises(ValueError, match="attention must have head_dimension 4, got 32"):
        build(LunaAttention())
    with pytest.raises(ValueError, match="attention must take a length of 10, got 6"):
        build(SoftmaxAttention(length=6))
    network, (tokens, mask) = build(), batch()
    with pytest.raises(ValueError, match=r"tokens must be \(batch, tokens\)"):
        network(tokens[0])
    with pytest.raises(ValueError, match=r"tokens must be \(batch, 2, tokens\)"):
        build(two_documents=True)(tokens)
    with pytest.raises(ValueError, match="at most 10 long"):
        network(torch.ones(2, 11, dtype=torch.int64))
    with pytest.raises(ValueError, match="mask must have the shape"):
        network(tokens, mask[:, :5])
