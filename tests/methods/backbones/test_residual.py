"""ResNet-18 against torchvision's, and its small form against counts and shapes."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from sextant.contracts import Classifier
from sextant.methods.backbones.residual import ResNet18


def test_the_large_stem_is_torchvisions_network():
    torch.manual_seed(0)
    theirs = resnet18(num_classes=7)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    ours = ResNet18(7, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
        torch.testing.assert_close(ours.logits(images), ours.fc(ours.features(images)))
        # Batch statistics too, and what they leave behind.
        torch.testing.assert_close(ours.train()(images), theirs.train()(images))
    for name, values in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], values)


def test_the_small_stem_is_torchvisions_network_with_a_small_stem():
    torch.manual_seed(1)
    theirs = resnet18(num_classes=5)
    theirs.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = ResNet18(5, channels=1)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
        assert ours.layer4(ours.layer3(ours.layer2(ours.layer1(ours.conv1(images))))).shape == (
            2, 512, 2, 2,
        )  # fmt: skip


@pytest.mark.parametrize(("width", "classes", "channels"), [(8, 10, 3), (12, 4, 1)])
def test_parameters_are_those_counted_by_hand(width, classes, channels):
    norm = 2 * width
    count = 9 * channels * width + norm
    count += 4 * (9 * width**2 + norm)
    for stage in (1, 2, 3):
        inputs, outputs = width * 2 ** (stage - 1), width * 2**stage
        count += 9 * (inputs * outputs + 3 * outputs**2) + inputs * outputs + 5 * 2 * outputs
    count += 8 * width * classes + classes
    network = ResNet18(classes, channels, width=width)
    assert sum(p.numel() for p in network.parameters()) == count
    images = torch.zeros(2, channels, 8, 8)
    assert network.features(images).shape == (2, network.width) == (2, 8 * width)
    assert isinstance(network, Classifier)


def test_reset_depends_on_the_generator_alone_and_forgets_everything():
    first, second = ResNet18(width=4), ResNet18(width=4)
    second.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    state = torch.get_rng_state()
    for network in (first, second):
        network.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    for name, values in first.state_dict().items():
        assert torch.equal(values, second.state_dict()[name]), name
    before = first.conv1.weight.clone()
    first.reset_parameters(torch.Generator().manual_seed(6))
    assert not torch.equal(before, first.conv1.weight)


def test_weights_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(2)
    ours, theirs = ResNet18(stem="imagenet", classes=10), resnet18(num_classes=10)
    others = dict(theirs.named_parameters())
    for name, values in ours.named_parameters():
        assert values.shape == others[name].shape, name
        if values.ndim > 1:
            assert float(values.detach().std()) == pytest.approx(
                float(others[name].detach().std()), rel=0.05
            ), name
            assert abs(float(values.detach().mean())) < 0.05 * float(values.detach().std()), name
        elif name != "fc.bias":
            assert torch.equal(values, others[name]), name


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"classes": 1}, "classes"), ({"channels": 0}, "channels"), ({"width": 0}, "width"),
     ({"stem": "large"}, "stem")],
)  # fmt: skip
def test_bad_settings_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        ResNet18(**arguments)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="images"):
        ResNet18(width=4)(torch.zeros(2, 1, 8, 8))
