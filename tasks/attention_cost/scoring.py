"""The exam of what an attention costs; `version` in a task's config counts its changes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import positive
from tasks.shared import measuring
from tasks.shared.scoring import one_thread

DEVICES = ("cpu", "cuda")
MEGABYTE = 2.0**20


class AttentionCostExam:
    """Time and memory of both passes of an attention, at every length of the data.

    A call is forward and backward to queries, keys, values and parameters, not causal, no mask.
    torch's fused softmax attention takes turns with it. For every length N:

    - `milliseconds@N`: median time of a call; on a CPU the time that its one thread had the
      processor, on a GPU from an idle device to an idle device. `n` counts the timed calls;
    - `speedup@N`: the same of fused softmax, divided by it;
    - `saved_mb@N`: what autograd keeps between the passes, parameters left out;
    - `peak_mb@N`: the most a call holds beyond what was held before it; gradients are part of it.

    Megabytes are 2^20 bytes. `slope`: of log time against log N from `slope_from` on, where there
    are two such lengths. `crossover`: the N from which it stays faster than softmax, where that
    lies between two lengths. A length at which memory runs out ends the exam, and it and longer
    ones have no scores.

    Arrays, float64 (lengths,): `lengths`, `milliseconds`, `softmax_milliseconds`,
    `saved_megabytes`, `peak_megabytes`.

    Args:
        device: "cpu" or "cuda".
        seconds: timed seconds that are enough for a length, above 0.
        calls: timed calls that are enough for a length; see `measuring.times` for the fewest.
        slope_from: the shortest N of the slope.

    Raises:
        ValueError: for a setting out of range.
        RuntimeError: for a GPU that is not there.
        MemoryError: when not even the shortest length fits.
        FloatingPointError: for an output that is not finite.
    """

    def __init__(
        self, device: str = "cpu", seconds: float = 0.5, calls: int = 15, slope_from: int = 2048
    ) -> None:
        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
        positive(seconds=seconds)
        least = {"calls": (calls, measuring.LEAST_CALLS), "slope_from": (slope_from, 1)}
        for name, (count, fewest) in least.items():
            if count < fewest:
                raise ValueError(f"{name} must be at least {fewest}, got {count}")
        self.device, self.seconds, self.calls = device, seconds, calls
        self.slope_from = slope_from

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Measures every length that the student allows."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("device is 'cuda', but torch sees no GPU; use device 'cpu'")
        longest = student.longest or max(data.lengths)
        rows: dict[int, dict[str, float]] = {}
        counts: dict[int, int] = {}
        with one_thread() if self.device == "cpu" else nullcontext():
            for length in (length for length in data.lengths if length <= longest):
                try:
                    rows[length], counts[length] = self._measured(student, data, length)
                except Exception as error:
                    if not measuring.out_of_memory(error):
                        raise
                    break
        if not rows:
            raise MemoryError(f"not even {min(data.lengths)} tokens fit into memory")
        columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
        arrays = {"lengths": list(rows), **columns}
        return Examination(
            self._scores(rows, counts),
            {name: np.array(values, dtype=np.float64) for name, values in arrays.items()},
        )

    def _measured(self, student: Any, data: Any, length: int) -> tuple[dict[str, float], int]:
        attention = student.attention(length).to(self.device)
        tokens = [tensor.to(self.device).requires_grad_() for tensor in data.tokens(length)]
        check_output(attention(*tokens), tokens)
        softmax = functional.scaled_dot_product_attention
        own = partial(measuring.both_passes, attention, tokens, list(attention.parameters()))
        calls = {"own": own, "softmax": partial(measuring.both_passes, softmax, tokens)}
        found = measuring.times(calls, self.device, self.seconds, self.calls)
        row = {
            "milliseconds": 1000.0 * median(found["own"]),
            "softmax_milliseconds": 1000.0 * median(found["softmax"]),
            "saved_megabytes": measuring.saved_bytes(lambda: attention(*tokens), attention)
            / MEGABYTE,
            "peak_megabytes": measuring.peak_bytes(own, self.device) / MEGABYTE,
        }
        return row, len(found["own"])

    def _scores(
        self, rows: Mapping[int, Mapping[str, float]], counts: Mapping[int, int]
    ) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        speedups = []
        for length, row in rows.items():
            n = counts[length]
            speedups.append(row["softmax_milliseconds"] / row["milliseconds"])
            scores[f"milliseconds@{length}"] = Score(row["milliseconds"], n, "lower", timed=True)
            scores[f"speedup@{length}"] = Score(speedups[-1], n, "higher", timed=True)
            scores[f"saved_mb@{length}"] = Score(row["saved_megabytes"], 1, "lower")
            scores[f"peak_mb@{length}"] = Score(row["peak_megabytes"], 1, "lower")
        long = [length for length in rows if length >= self.slope_from]
        if len(long) > 1:
            slope = measuring.log_slope(long, [rows[length]["milliseconds"] for length in long])
            scores["slope"] = Score(slope, len(long), "lower", timed=True)
        crossover = measuring.crossing(list(rows), speedups)
        if crossover is not None:
            scores["crossover"] = Score(crossover, len(rows), "lower", timed=True)
        return scores


def check_output(output: Tensor, tokens: list[Tensor]) -> None:
    """Refuses what is no row of mixed values for each query.

    Raises:
        ValueError: for another shape than (B, H, N, d_v).
        FloatingPointError: for an output that is not finite.
    """
    queries, _, values = tokens
    expected = (*queries.shape[:3], values.shape[3])
    if output.shape != expected:
        raise ValueError(f"output must be {tuple(expected)}, got {tuple(output.shape)}")
    if not output.isfinite().all():
        raise FloatingPointError("output is not finite, so the run diverged")
