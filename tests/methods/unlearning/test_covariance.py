"""Streamed covariances of layer inputs against unfolded patches and loops over patches."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sextant.methods.unlearning import covariance as module
from sextant.methods.unlearning import patch_sums
from sextant.methods.unlearning.covariance import (
    LayerCovariance,
    feature_covariances,
    refused_layers,
    stream_covariances,
)

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 7, "stride": 2, "padding": 3},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": (2, 5), "stride": (3, 1), "padding": (1, 3), "dilation": (2, 1)},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "stride": 3, "padding": 1},
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patches(layer: nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """Every patch of the inputs as a row (n * positions, d) float64, by `F.unfold`."""
    down, right = layer.kernel_size
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        edges = [totals[1] // 2, totals[1] - totals[1] // 2, totals[0] // 2]
        edges.append(totals[0] - totals[0] // 2)
    else:
        rows, columns = (0, 0) if layer.padding == "valid" else layer.padding
        edges = [columns, columns, rows, rows]
    padded = functional.pad(inputs.double(), edges)
    rows = functional.unfold(padded, (down, right), layer.dilation, stride=layer.stride)
    return rows.transpose(1, 2).flatten(0, 1)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("chunk", [1, 2**22])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions_equal_unfolded_patches(monkeypatch, geometry, chunk):
    monkeypatch.setattr(patch_sums, "CHUNK_NUMBERS", chunk)
    layer = nn.Conv2d(4, 3, **geometry).double()
    inputs = draw(5, 4, 9, 11)
    rows = patches(layer, inputs)
    torch.testing.assert_close(
        (rows @ layer.weight.flatten(1).T + layer.bias).view(5, -1, 3).transpose(1, 2).flatten(),
        layer(inputs).flatten(),
    )  # so the rows are what the layer multiplies, in the order of its weights
    found = feature_covariances(nn.Sequential(layer), inputs.split(2))["0"]
    assert found.rows == len(rows)
    assert found.matrix.dtype == torch.float64
    assert relative(found.matrix, rows.T @ rows / len(rows)) < 1e-14
    layer.float()
    fast = feature_covariances(
        nn.Sequential(layer), inputs.float().split(2), precision=torch.float32
    )["0"]
    rows = patches(layer, inputs.float())
    assert relative(fast.matrix, rows.T @ rows / len(rows)) < 1e-6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_axes_of_any_geometry_hold_every_pair_of_every_position_once(data):
    kernel, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    dilation, before = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
    reach = dilation * (kernel - 1)
    size = data.draw(st.integers(max(1, reach + 1 - 2 * before), 12))
    outputs = (size + 2 * before - reach - 1) // stride + 1
    expected = sorted(
        (one, other, first, second)
        for position, one, other in itertools.product(range(outputs), range(kernel), range(kernel))
        for first in [position * stride + dilation * one - before]
        for second in [position * stride + dilation * other - before]
        if 0 <= first < size and 0 <= second < size
    )
    found = sorted(
        (one, other, first, first + part.shift)
        for part in patch_sums.overlaps(size, kernel, stride, dilation, before, outputs)
        for one, other in part.pairs
        for first in (part.residue + stride * u for u in range(part.first, part.last))
    )
    assert found == expected


def test_a_convolution_equals_loops_over_its_patches():
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    inputs = draw(3, 2, 5, 6)
    padded = np.pad(inputs.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    total, rows = np.zeros((18, 18)), 0
    for image in padded:
        for y, x in itertools.product(range(0, 5, 2), range(0, 6, 2)):
            patch = image[:, y : y + 3, x : x + 3].reshape(-1)
            total += np.outer(patch, patch)
            rows += 1
    found = feature_covariances(layer.double(), [inputs])[""]
    assert found.rows == rows
    np.testing.assert_allclose(found.matrix.numpy(), total / rows, rtol=1e-13)


def test_sums_depend_neither_on_batches_nor_on_their_order_nor_on_image_sizes():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).double()
    small, large = draw(7, 3, 6, 6), draw(4, 3, 8, 5, seed=1)
    found = [
        feature_covariances(layer, batches)["0"].matrix
        for batches in (
            [small, large],
            [*large.split(1), *small.flip(0).split(3)],
            [small[:2], large[:3], small[2:], large[3:]],
        )
    ]
    rows = torch.cat([patches(layer[0], images) for images in (small, large)])
    for one in found:
        assert relative(one, rows.T @ rows / len(rows)) < 1e-14


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_linear_layers_count_every_token_and_the_constant_of_the_bias(monkeypatch, bias, precision):
    monkeypatch.setattr(module, "BLOCK", 3)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 40)
    layer = nn.Linear(8, 2, bias=bias)
    tokens = draw(5, 6, 8).float()
    rows = tokens.double().reshape(-1, 8)
    if bias:
        rows = torch.cat((rows, torch.ones(30, 1, dtype=torch.float64)), 1)
    found = feature_covariances(layer, tokens.split(2), precision=precision)[""]
    assert found.rows == 30
    assert torch.equal(found.matrix, found.matrix.T)
    allowed = 1e-14 if precision == torch.float64 else 1e-6
    assert relative(found.matrix, rows.T @ rows / 30) < allowed


def test_a_shared_module_sums_over_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.again = self.inner

        def forward(self, x):
            return self.again(torch.relu(self.inner(input=x)))

    model, inputs = Twice().double(), draw(6, 4)
    second = torch.relu(model.inner(inputs)).detach()
    rows = torch.cat((torch.cat((inputs, second)), torch.ones(12, 1, dtype=torch.float64)), 1)
    found = feature_covariances(model, [inputs])
    assert list(found) == ["inner"]
    assert found["inner"].rows == 12
    assert relative(found["inner"].matrix, rows.T @ rows / 12) < 1e-14


def test_a_residual_network_is_followed_to_its_shortcuts_and_left_as_it_was():
    torch.manual_seed(0)
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 4)
    model.layer1.eval()
    model.double()
    modes = {name: one.training for name, one in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = draw(2, 3, 16, 16)
    chosen = ["layer2.0.downsample.0", "layer3.0.conv1"]
    found = feature_covariances(model, inputs.split(1), chosen)
    assert list(found) == chosen
    assert {name: one.training for name, one in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    seen = {}
    model.eval()
    for name in found:
        one = model.get_submodule(name)
        one.register_forward_hook(lambda _, x, __, name=name: seen.__setitem__(name, x[0]))
    with torch.no_grad():
        model(inputs)
    for name, one in found.items():
        rows = patches(model.get_submodule(name), seen[name])
        assert relative(one.matrix, rows.T @ rows / len(rows)) < 1e-13


def test_modes_come_back_and_hooks_go_even_when_the_model_fails():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model[1].eval()
    with pytest.raises(RuntimeError):
        feature_covariances(model, [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 5, 5)])
    assert [one.training for one in model] == [True, False, True, True]
    assert not any(one._forward_pre_hooks for one in model)


def test_a_vision_transformer_is_followed_but_for_its_attention_weights():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(8, 4, 2, 2, 12, 24, num_classes=3)
    found = feature_covariances(model, [draw(2, 3, 8, 8).float()])
    assert found["conv_proj"].rows == 2 * 4
    assert found["encoder.layers.encoder_layer_1.mlp.0"].rows == 2 * 5
    assert found["heads.head"].matrix.shape == (13, 13)
    assert not [name for name in found if "self_attention" in name]
    refused = refused_layers(model)
    assert set(refused) == {
        f"encoder.layers.encoder_layer_{k}.self_attention.out_proj" for k in range(2)
    }


def test_the_built_in_encoder_layer_does_not_bypass_its_linear_layers():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = feature_covariances(model, [draw(3, 4, 8).float()])
    assert {name: one.rows for name, one in found.items()} == {"linear1": 12, "linear2": 12}


def test_layers_that_cannot_be_followed_are_left_out_and_named_with_a_reason():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight
            self.unused = nn.Linear(4, 4)
            self.plain = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            x = self.circular(self.grouped(x)).mean((2, 3))
            return self.plain(self.other(self.one(self.norm(x))))

    model, batches = Model(), [draw(2, 4, 5, 5).float()]
    assert list(feature_covariances(model, batches)) == ["plain"]
    reasons = refused_layers(model)
    assert set(reasons) == {"grouped", "circular", "one", "other"}
    assert "2 groups" in reasons["grouped"]
    assert "circular" in reasons["circular"]
    assert "same weight" in reasons["one"]
    for name, said in (
        ("grouped", "groups"),
        ("unused", "never"),
        ("norm", "LayerNorm"),
        ("absent", "names of the model's modules"),
    ):
        with pytest.raises(ValueError, match=said):
            feature_covariances(model, batches, [name])


def test_wrong_input_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="at least one batch"):
        feature_covariances(model, [])
    with pytest.raises(TypeError, match="precision must be"):
        feature_covariances(model, [torch.zeros(1, 2)], precision=torch.float16)
    with pytest.raises(FloatingPointError, match="finite"):
        feature_covariances(model, [torch.tensor([[0.0, torch.nan]])])
    with pytest.raises(ValueError, match="rows"):
        LayerCovariance(torch.eye(2), 0)


def test_covariances_add_and_subtract_as_their_rows_do():
    layer = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(50, 2)).double()
    forget, retain = draw(3, 2, 5, 5), draw(8, 2, 5, 5, seed=1)
    of = [
        feature_covariances(layer, batch)
        for batch in ([forget], [retain], [torch.cat((forget, retain))])
    ]
    for name in ("0", "2"):
        part, rest, whole = (one[name] for one in of)
        assert (part + rest).rows == whole.rows
        assert (whole - part).rows == rest.rows
        assert relative((part + rest).matrix, whole.matrix) < 1e-14
        assert relative((whole - part).matrix, rest.matrix) < 1e-13
    with pytest.raises(ValueError, match="fewer rows"):
        of[0]["0"] - of[2]["0"]
    with pytest.raises(ValueError, match="width"):
        of[0]["0"] + of[0]["2"]


def test_one_layer_is_finished_at_a_time():
    layer = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    pairs = stream_covariances(layer, iter([draw(4, 3).float()]))
    assert next(pairs)[0] == "0"
    assert next(pairs)[0] == "1"
    assert next(pairs, None) is None
