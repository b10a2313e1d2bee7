"""All-CNN with batch normalisation: a classifier of small images without pooling in between."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sextant.ranges import at_least


class AllCNN(nn.Module):
    """Eight convolutions, two of stride 2, then a global mean and a linear head.

    Every convolution is without bias, followed by BatchNorm and ReLU. Of the full widths 96 and
    192, F1 = floor(96 share) and F2 = floor(192 share) are taken:
    3x3 F1, 3x3 F1, 3x3/2 F2, 3x3 F2, 3x3 F2, 3x3/2 F2, 3x3 F2, 1x1 F2.

    Source: Springenberg et al., arXiv 1412.6806, in the form of Golatkar et al., arXiv 1911.04933,
    whose mean over 8x8 positions is here the mean over all, so images need not be 32x32.

    Args:
        classes: number of classes, at least 2.
        share: of the filters; 1 is the full network.
        channels: of the images.

    Raises:
        ValueError: for fewer than 2 classes, no channel, or a share that leaves no filter.
    """

    def __init__(self, classes: int = 10, share: float = 0.5, channels: int = 3) -> None:
        super().__init__()
        at_least(2, classes=classes)
        at_least(1, channels=channels)
        if not (math.isfinite(share) and int(96 * share) >= 1):
            raise ValueError(f"share must be finite and leave one filter of 96, got {share}")
        narrow, wide = int(96 * share), int(192 * share)
        self.channels, self.width = channels, wide
        self.body = nn.Sequential(
            *_block(channels, narrow),
            *_block(narrow, narrow),
            *_block(narrow, wide, stride=2),
            *_block(wide, wide),
            *_block(wide, wide),
            *_block(wide, wide, stride=2),
            *_block(wide, wide),
            *_block(wide, wide, kernel=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(wide, classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Images (n, channels, height, width) to penultimate features (n, F2), not negative.

        Raises:
            ValueError: for images of another number of dimensions or channels.
        """
        check_images(inputs, self.channels)
        return self.body(inputs)

    def logits(self, inputs: Tensor) -> Tensor:
        """Images (n, channels, height, width) to class scores (n, classes)."""
        return self.head(self.features(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """The class scores."""
        return self.logits(inputs)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew, uniformly in +-1/sqrt(fan-in), and clears the running statistics.

        Args:
            generator: on the weights' device; None takes torch's global one.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = module.weight[0].numel() ** -0.5
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(-bound, bound, generator=generator)


def check_images(inputs: Tensor, channels: int) -> None:
    """Raises ValueError unless the inputs are (n, channels, height, width)."""
    if inputs.ndim != 4 or inputs.shape[1] != channels:
        raise ValueError(
            f"images must be (n, {channels}, height, width), got {tuple(inputs.shape)}"
        )


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
