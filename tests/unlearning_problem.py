"""A small unlearning problem: four classes of striped 8x8 images and a network that knows them."""

import copy
import functools

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.methods.unlearning.problem import Examples, PixelSpace, Problem

CLASSES = 4
SPACE = PixelSpace((0.4,), (0.25,))


def network(seed=0):
    """Two convolutions with BatchNorm and a linear head, freshly drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, CLASSES),
        )


def images(each=40, seed=0):
    """Stripes along rows, columns and both diagonals, with noise; `each` of every class."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ways = torch.stack((row, column, row + column, row - column))
    labels = torch.arange(CLASSES).repeat_interleave(each)
    phase = 6.28 * torch.rand(len(labels), 1, 1, generator=generator)
    noise = 0.12 * torch.randn(len(labels), 8, 8, generator=generator)
    pixels = (0.5 + 0.35 * torch.sin(1.6 * ways[labels] + phase) + noise).clamp(0, 1)
    return Examples(SPACE.to_inputs(pixels[:, None]), labels)


def part(examples, chosen):
    return Examples(examples.inputs[chosen], examples.labels[chosen])


def split(examples, forgotten=1):
    """What to forget and what to keep."""
    chosen = examples.labels == forgotten
    return part(examples, chosen), part(examples, ~chosen)


@functools.cache
def _trained():
    model, data = network(), images()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(12):
        for inputs, labels in data.batches(32, torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


def trained():
    """The network after training, of high accuracy; a copy, in evaluation mode."""
    return copy.deepcopy(_trained())


def problem_of(method, forget=None, retain=None, **changes):
    """What the method may see of forgetting class 1."""
    own_forget, own_retain = split(images())
    given = {
        "classes": CLASSES,
        "forget": own_forget if forget is None else forget,
        "retain": own_retain if retain is None else retain,
        "subset": own_retain if retain is None else retain,
        "fresh": network,
        "forgotten_classes": (1,),
        "space": SPACE,
    }
    return Problem.of(method.needs, **given | changes)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )
