"""All-CNN against its layers written out and its parameters counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sextant.contracts import Classifier
from sextant.methods.backbones.all_cnn import AllCNN

WIDTHS = [(3, 1), (3, 1), (3, 2), (3, 1), (3, 1), (3, 2), (3, 1), (1, 1)]
"""Kernel and stride of the eight convolutions."""


def scrambled(network, seed=0):
    """Statistics and scales that are not 0 and 1, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight.data, 0.5), (module.running_var, 0.5)):
                values.uniform_(low, 2, generator=generator)
            for values in (module.bias.data, module.running_mean):
                values.normal_(generator=generator)
    return network.double().eval()


def by_hand(network, images):
    """The eight layers from the state dict alone."""
    state, hidden = network.state_dict(), images
    for layer, (kernel, stride) in enumerate(WIDTHS):
        hidden = functional.conv2d(
            hidden, state[f"body.{3 * layer}.weight"], stride=stride, padding=(kernel - 1) // 2
        )
        weight, bias, mean, variance = (
            state[f"body.{3 * layer + 1}.{name}"][:, None, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        hidden = ((hidden - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp_min(0)
    features = hidden.mean((2, 3))
    return features, features @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize(("side", "left"), [(32, 8), (16, 4), (9, 3)])
def test_features_and_logits_are_the_eight_layers(side, left):
    network = scrambled(AllCNN(classes=4, share=0.1, channels=2))
    images = torch.randn(3, 2, side, side, generator=torch.Generator().manual_seed(1)).double()
    features, logits = by_hand(network, images)
    torch.testing.assert_close(network.features(images), features)
    torch.testing.assert_close(network.logits(images), logits)
    torch.testing.assert_close(network(images), logits)
    assert network.body[:-2](images).shape == (3, 19, left, left)
    assert features.shape == (3, network.width)


@pytest.mark.parametrize(
    ("share", "channels", "classes", "first", "second"), [(0.5, 3, 10, 48, 96), (1, 1, 7, 96, 192)]
)
def test_parameters_are_those_counted_by_hand(share, channels, classes, first, second):
    convolutions = 9 * (channels * first + first**2 + first * second + 4 * second**2) + second**2
    norms, head = 2 * (2 * first + 6 * second), second * classes + classes
    network = AllCNN(classes, share, channels)
    assert sum(p.numel() for p in network.parameters()) == convolutions + norms + head
    convolved = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(m.kernel_size[0], m.stride[0]) for m in convolved] == WIDTHS
    assert all(module.bias is None for module in convolved)


def test_the_half_network_has_the_stated_size():
    # 9 (3*48 + 48*48 + 48*96 + 4*96*96) + 96*96 + 2 (2*48 + 6*96) + 96*10 + 10
    assert sum(p.numel() for p in AllCNN().parameters()) == 406_810


def test_reset_depends_on_the_generator_alone_and_forgets_everything():
    first, second = AllCNN(share=0.1), scrambled(AllCNN(share=0.1)).float()
    for network in (first, second):
        network.reset_parameters(torch.Generator().manual_seed(5))
    for name, values in first.state_dict().items():
        assert torch.equal(values, second.state_dict()[name]), name
    assert all(int(m.num_batches_tracked) == 0 for m in first.body if hasattr(m, "running_mean"))
    before = first.head.weight.clone()
    first.reset_parameters(torch.Generator().manual_seed(6))
    assert not torch.equal(before, first.head.weight)


def test_reset_leaves_the_global_generator_alone_and_draws_as_torch_does():
    torch.manual_seed(3)
    network, built = AllCNN(), AllCNN()
    state = torch.get_rng_state()
    network.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    others = dict(built.named_parameters())
    for name, values in network.named_parameters():
        values, other = values.detach(), others[name].detach()
        if values.ndim > 1:
            assert float(values.std()) == pytest.approx(float(other.std()), rel=0.1), name
            assert float(values.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.05)
        elif name == "head.bias":
            assert 0 < float(values.abs().max()) <= network.width**-0.5
        else:
            assert torch.equal(values, other), name


def test_it_is_a_classifier_and_learns_from_batch_statistics():
    network = AllCNN(share=0.1)
    assert isinstance(network, Classifier)
    network.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert all(int(m.num_batches_tracked) == 1 for m in network.body if hasattr(m, "running_mean"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"classes": 1}, "classes"),
        ({"channels": 0}, "channels"),
        ({"share": 0.01}, "share"),
        ({"share": float("nan")}, "share"),
    ],
)
def test_bad_settings_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        AllCNN(**arguments)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images"):
        AllCNN(share=0.1)(torch.zeros(shape))
