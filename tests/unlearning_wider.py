"""The striped images of the small unlearning problem, and a network wide enough to have room."""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.methods.unlearning.problem import Examples
from tests.unlearning_problem import CLASSES, images

KEPT = (0, 2, 3)
FORGOTTEN = 1


def wide_network() -> nn.Sequential:
    """Three convolutions with batch normalisation, one of them with a bias, and a linear head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )


@functools.cache
def _trained() -> nn.Sequential:
    model, examples = wide_network(), images(60)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(5):
        for inputs, labels in examples.batches(40, torch.Generator().manual_seed(epoch)):
            loss = cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def trained_wide() -> nn.Sequential:
    """The wide network after training: a copy, in evaluation mode."""
    return copy.deepcopy(_trained())


def of_classes(examples: Examples, *classes: int) -> Examples:
    """The examples of some classes, in order."""
    chosen = torch.isin(examples.labels, torch.tensor(classes))
    return Examples(examples.inputs[chosen], examples.labels[chosen])
