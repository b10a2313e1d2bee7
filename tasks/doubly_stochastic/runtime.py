"""The exam of run time against length, as the paper's figure has it; `version` in a task's config
counts its changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sextant.contracts import Examination, Parent, Score, Streams
from tasks.shared.measuring import both_passes, peak_bytes, times
from tasks.shared.scoring import one_thread

MEGABYTE = 2.0**20


class RuntimeExam:
    """Time of an attention at every length of the data, without and with a backward pass.

    torch's fused softmax attention takes turns with it, as load on the machine meets both alike.
    For every length N, on one CPU thread, times being the processor's:

    - `forward_ms@N` and `both_ms@N`: median milliseconds of a call without a gradient, and with one
      to queries, keys, values and parameters;
    - `forward_ratio@N` and `both_ratio@N`: the same over fused softmax attention's;
    - `peak_mb@N`: the most a call with a gradient holds beyond what was held before it.

    Arrays: `lengths`, and the first two by name, (lengths,) each.

    Args:
        seconds: that are enough for the calls of a length, above 0.
        calls: times that are enough, at least 3.
        both_up_to: longest N that is measured with a gradient.
    """

    def __init__(self, seconds: float, calls: int, both_up_to: int) -> None:
        self.seconds, self.calls, self.both_up_to = seconds, calls, both_up_to

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Measures every length."""
        attention, scores = student.attention(), {}
        measured: dict[str, list[float]] = {"forward": [], "both": []}
        lengths: Sequence[int] = data.lengths
        with one_thread():
            for length in lengths:
                tokens = [part.requires_grad_() for part in data.tokens(length)]
                for kind, values in measured.items():
                    if kind == "both" and length > self.both_up_to:
                        continue
                    own, fused, count = self._measure(kind, attention, tokens)
                    values.append(own)
                    scores[f"{kind}_ms@{length}"] = Score(1e3 * own, count, "lower", timed=True)
                    scores[f"{kind}_ratio@{length}"] = Score(
                        own / fused, count, "lower", timed=True
                    )
                if length <= self.both_up_to:
                    peak = peak_bytes(lambda held=tokens: both_passes(attention, held), "cpu")
                    scores[f"peak_mb@{length}"] = Score(peak / MEGABYTE, 1, "lower")
        arrays = {f"{kind}_ms": 1e3 * np.array(values) for kind, values in measured.items()}
        return Examination(scores, {"lengths": np.array(lengths), **arrays})

    def _measure(self, kind: str, attention: Any, tokens: list[Any]) -> tuple[float, float, int]:
        """Median seconds of the attention and of fused softmax, and how many calls were timed."""

        def call(attend: Any) -> Any:
            if kind == "both":
                return lambda: both_passes(attend, tokens, list(attention.parameters()))

            def forward() -> None:
                with torch.no_grad():
                    attend(*tokens)

            return forward

        calls = {
            "own": call(attention),
            "softmax": call(functional.scaled_dot_product_attention),
        }
        found = times(calls, "cpu", self.seconds, self.calls)
        own, fused = (median(found[name]) for name in calls)
        return own, fused, len(found["own"])
