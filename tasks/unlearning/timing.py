"""How long it takes to train a model again, from a few of its training steps."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.ranges import at_least


def training_seconds(
    network: nn.Module, inputs: Tensor, labels: Tensor, steps: int, timed: int = 10
) -> float:
    """Processor time of `steps` training steps on one batch, from the median of `timed` of them.

    Cross-entropy and Adam, as `RecognitionModule` trains; what a trainer does around a step is left
    out, so the true time is longer. The network itself stays as it is.

    Args:
        network: inputs (B, *shape) to logits (B, K).
        inputs, labels: (B, *shape) and (B,), one batch of the size that was trained with.
        steps: of the training that is priced.
        timed: steps that are carried out, after one to warm up.

    Raises:
        ValueError: for no timed step.
    """
    at_least(1, timed=timed)
    learner = copy.deepcopy(network).train().requires_grad_(True)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-4)
    seconds = []
    for _ in range(timed + 1):
        begin = time.process_time()
        optimizer.zero_grad()
        functional.cross_entropy(learner(inputs), labels).backward()
        optimizer.step()
        seconds.append(time.process_time() - begin)
    return steps * float(torch.tensor(seconds[1:], dtype=torch.float64).median())
