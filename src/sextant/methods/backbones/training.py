"""What every training module here shares: Adam with a cosine schedule, and a stop on divergence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sextant.ranges import at_least, positive

PROGRESS_EVERY = 50
"""Steps between two progress reports; logging each step would cost as much as a small step."""


class Adam(torch.optim.Adam):
    """Adam that does not look for accelerators at every step.

    The stock optimizer checks before each step that it is not recorded into an accelerator's
    graph. Nothing here records graphs, and on a machine without a GPU the check loads the
    driver's library anew each time. A torch that has no such check calls none of these.
    """

    def _accelerator_graph_capture_health_check(self) -> None: ...

    def _cuda_graph_capture_health_check(self) -> None: ...


def cosine(step: int, steps: int) -> float:
    """The share of the learning rate at `step`: 1 at step 0, 0 from `steps` on."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


def adam_with_cosine(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float, steps: int
) -> dict[str, Any]:
    """Adam and its cosine schedule over `steps` steps, in the form Lightning asks for.

    The schedule is a closed form of the step number, so a resumed run continues it exactly.
    """
    optimizer = Adam(list(parameters), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_schedule(learning_rate: float, steps: int) -> None:
    """Raises a ValueError for a learning rate or number of steps that is not positive."""
    positive(learning_rate=learning_rate)
    at_least(1, steps=steps)


def stop_if_diverged(loss: Tensor, step: int, steps: int) -> None:
    """Raises a FloatingPointError when the loss is not finite.

    On an accelerator reading the loss makes the host wait, so there only the progress steps and
    the last step look; a loss that is not finite ruins the weights and so does not come back.
    """
    looks = loss.device.type == "cpu" or step % PROGRESS_EVERY == 0 or step + 1 == steps
    if looks and not math.isfinite(loss.item()):
        raise FloatingPointError(f"training diverged at step {step}: the loss is {loss.item()}")
