"""What the trainings of slicers share: AdamW, their settings, a clock and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn

from sextant.methods.backbones.training import Adam

Keep = Literal["best", "last"]
"""Which weights a fit leaves behind: those of the cheapest hard plan it saw, or the last ones."""


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> Adam:
    """AdamW: Adam with decoupled weight decay, in one fused kernel."""
    return Adam(
        list(parameters),
        lr=learning_rate,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        fused=True,
    )


def check_weight_decay(weight_decay: float) -> None:
    """Raises a ValueError for a negative weight decay."""
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")


def check_keep(keep: str) -> None:
    """Raises a ValueError for anything but "best" and "last"."""
    if keep not in get_args(Keep):
        raise ValueError(f"keep must be 'best' or 'last', got {keep!r}")


def seconds_now(device: torch.device) -> float:
    """Seconds of work: on a CPU the processor time of this process, which other work on the machine
    does not lengthen, on a GPU those of the clock, when it has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


@contextmanager
def progress_bar(iterations: int, progress: bool) -> Iterator[Callable[[int, float], None]]:
    """A function (iteration, share of the first cost) that moves a bar, or does nothing."""
    if not progress:
        yield lambda iteration, share: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("fitting the slicer"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("cost {task.fields[share]:.1%} of the first"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("fit", total=iterations, share=1.0)
        yield lambda iteration, share: bar.update(task, completed=iteration, share=share)
