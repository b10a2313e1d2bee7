"""How time and memory of a call are measured, and how they grow with length."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile

Call = Callable[[], object]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

QUICK_SECONDS = 0.1
"""A call this short depends on what the caches hold: one that is not timed goes before it."""
LEAST_CALLS = 3
"""So many timed calls have a median that one disturbed call does not move far."""


def clock(device: str) -> float:
    """Seconds: of the processor spent by this thread, or of the day once the GPU is idle."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def both_passes(attend: Attend, tensors: Sequence[Tensor], weights: Iterable[Tensor] = ()) -> None:
    """Forward and backward to the tensors and weights; gradients are thrown away."""
    attend(*tensors).sum().backward()
    for tensor in (*tensors, *weights):
        tensor.grad = None


def times(
    calls: Mapping[str, Call], device: str, seconds: float, most: int
) -> dict[str, list[float]]:
    """Seconds of every timed call, by name; the calls take turns, so that load meets them alike.

    The first time never counts, however long it takes: it touches fresh memory page by page and
    finds nothing in the caches. A call leaves when it was timed for `seconds` in all, but
    `LEAST_CALLS` times at least, or `most` times; one shorter than `QUICK_SECONDS` is made once
    more before each that counts.

    Args:
        calls: what is timed.
        device: "cpu" or "cuda".
        seconds: enough for one call, above 0.
        most: times that are enough, at least `LEAST_CALLS`.

    Raises:
        ValueError: for fewer times.
    """
    if most < LEAST_CALLS:
        raise ValueError(f"most must be at least {LEAST_CALLS}, got {most}")

    def timed(call: Call) -> float:
        start = clock(device)
        call()
        return clock(device) - start

    def waits(name: str) -> bool:
        count = len(found[name])
        return count < LEAST_CALLS or (count < most and sum(found[name]) < seconds)

    latest = {name: timed(call) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    while waiting := [name for name in calls if waits(name)]:
        for name in waiting:
            if latest[name] < QUICK_SECONDS:
                calls[name]()
            latest[name] = timed(calls[name])
            found[name].append(latest[name])
    return found


def saved_bytes(forward: Callable[[], Tensor], without: nn.Module | None = None) -> int:
    """What autograd keeps between the passes: every storage once, whole.

    What comes in counts where it is kept; parameters and buffers of `without` do not.
    """
    own = [] if without is None else [*without.parameters(), *without.buffers()]
    weights = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # The tensor is held, so that no other storage can take its place in memory.
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    sizes = {place: tensor.untyped_storage().nbytes() for place, tensor in kept.items()}
    del output
    return sum(size for place, size in sizes.items() if place not in weights)


def peak_bytes(call: Call, device: str) -> int:
    """The most that torch's allocator held during a call beyond what it held before.

    Exact and the same every time: what the allocator gave out is counted, not what the system lent
    to it. Memory that libraries take from the system themselves is not seen.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The profiler tells of its own start and stop otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(profile_memory=True) as record:
        call()
    events = (event for event in record.kineto_results.events() if event.name() == "[memory]")
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(0, np.cumsum(changes).max())) if changes else 0


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def log_slope(lengths: Sequence[int], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost against log length: 1 is linear, 2 quadratic.

    Raises:
        ValueError: for fewer than two lengths, or a cost that is not positive.
    """
    if len(lengths) < 2:
        raise ValueError(f"lengths must be at least 2 to have a slope, got {list(lengths)}")
    if min(costs) <= 0:
        raise ValueError(f"costs must be positive, got {min(costs):g}")
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def crossing(lengths: Sequence[int], ratios: Sequence[float]) -> float | None:
    """The length from which ratios stay at 1 or above, between two lengths on log scales.

    None where the last ratio is below 1, or none is: then it lies outside of the lengths.
    """
    below = [place for place, ratio in enumerate(ratios) if ratio < 1]
    if not below or below[-1] == len(ratios) - 1:
        return None
    place = below[-1]
    low, high = np.log(ratios[place : place + 2])
    share = -low / (high - low)
    return float(lengths[place] * (lengths[place + 1] / lengths[place]) ** share)
