"""Features before the last layer, against the network cut by hand."""

import pytest
import timm
import torch
from torch import nn

from tasks.unlearning.features import last_features


def test_features_of_a_timm_network_are_its_own_pre_logits():
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4).train()
    inputs = torch.randn(5, 3, 32, 32)
    found = last_features(model, inputs, chunk=2)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_maps_before_a_last_convolution_are_averaged_over_places():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten())
    inputs = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = model[:2](inputs).mean((2, 3))
    torch.testing.assert_close(last_features(model, inputs), expected)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="no linear or convolution layer"):
        last_features(nn.ReLU(), torch.zeros(1, 2))
