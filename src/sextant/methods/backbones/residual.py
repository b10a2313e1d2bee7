"""ResNet-18 of any width, for small images or large ones; its blocks are torchvision's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sextant.methods.backbones.all_cnn import check_images
from sextant.ranges import at_least, one_of

Stem = Literal["cifar", "imagenet"]


class ResNet18(nn.Module):
    """ResNet-18 (arXiv 1512.03385); four stages of two basic blocks.

    Parameter names are those of torchvision's `resnet18`: with the stem "imagenet" and width 64 the
    two networks are the same and share weights files.

    Args:
        classes: number of classes, at least 2.
        channels: of the images.
        stem: "cifar", a 3x3 convolution of stride 1 for images of about 32x32; "imagenet", a 7x7
            convolution of stride 2 and a max-pool of stride 2 for images of 112x112 and more.
        width: channels of the stem and the first stage; every further stage doubles them.

    Raises:
        ValueError: for fewer than 2 classes, no channel, an unknown stem or a width below 1.
    """

    def __init__(
        self, classes: int = 10, channels: int = 3, stem: Stem = "cifar", width: int = 64
    ) -> None:
        super().__init__()
        at_least(2, classes=classes)
        at_least(1, channels=channels, width=width)
        one_of(Stem, stem=stem)
        self.channels, self.width = channels, 8 * width
        large = stem == "imagenet"
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)
        self.reset_parameters()

    def features(self, inputs: Tensor) -> Tensor:
        """Images (n, channels, height, width) to penultimate features (n, 8 width), not negative.

        Raises:
            ValueError: for images of another number of dimensions or channels.
        """
        check_images(inputs, self.channels)
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = stage(hidden)
        return self.avgpool(hidden).flatten(1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Images (n, channels, height, width) to class scores (n, classes)."""
        return self.fc(self.features(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """The class scores."""
        return self.logits(inputs)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew and clears the running statistics.

        Convolutions are normal with variance 2 / fan-out (arXiv 1502.01852), the head is uniform
        in +-1/sqrt(fan-in), as in torchvision.

        Args:
            generator: on the weights' device; None takes torch's global one.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
        bound = self.fc.in_features**-0.5
        for parameter in self.fc.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    # Imported late: torchvision takes a second, and most runs need no residual network.
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs)
    )
