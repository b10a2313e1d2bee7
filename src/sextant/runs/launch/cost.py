"""What runs will cost: the median seconds a step of finished runs like them, times their steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sextant.runs.spec import RunSpec
from sextant.words import duration


@dataclass(frozen=True)
class Cost:
    """An estimate for some runs.

    Args:
        runs: how many.
        seconds: of those that could be estimated.
        measured: how many from runs of the same task, method and tier.
        scaled: how many from the seconds a step of another method or tier of their task.
        on_cpu: how many need a GPU, though only runs on a CPU could be learned from.
        needs_gpu: whether any needs a GPU.
    """

    runs: int
    seconds: float
    measured: int
    scaled: int
    on_cpu: int
    needs_gpu: bool

    def __str__(self) -> str:
        unknown = self.runs - self.measured - self.scaled
        if unknown == self.runs:
            return "no run like these was timed yet"
        said = f"about {duration(self.seconds)} of {'GPU' if self.needs_gpu else 'core'} time"
        remarks = []
        if self.scaled:
            remarks.append(f"{self.scaled} judged by another method or tier of their task")
        if self.on_cpu:
            remarks.append(f"{self.on_cpu} judged by CPU runs")
        if unknown:
            remarks.append(f"without {unknown} whose like was never timed")
        return said + (f" ({', '.join(remarks)})" if remarks else "")


@dataclass(frozen=True)
class Guess:
    """The seconds expected of a run, whether its like was timed, and whether it needs a GPU while
    those that were timed ran on a CPU."""

    seconds: float
    like: bool
    on_cpu: bool


class Estimator:
    """Learns from the ledger what a step takes.

    Args:
        records: ledger lines; those of finished runs count.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self.rates: dict[tuple[str, ...], list[tuple[float, str]]] = {}
        for record in records:
            if record["status"] != "done":
                continue
            rate = record["seconds"] / steps_of(record["spec"])
            device = (record.get("provenance") or {}).get("device") or "cpu"
            task, method, tier = record["task"], record["method"], record["tier"]
            for key in ((task, method, tier), (task, method), (task,)):
                self.rates.setdefault(key, []).append((rate, device))

    def guess(self, spec: RunSpec) -> Guess | None:
        """What is expected of a run; None without any history."""
        like = (spec.task, spec.method, spec.tier)
        for key in (like, like[:2], like[:1]):
            if key in self.rates:
                known = self.rates[key]
                on_gpu = [entry for entry in known if entry[1] != "cpu"]
                if spec.needs_gpu and on_gpu:
                    known = on_gpu
                rate = statistics.median(rate for rate, _ in known)
                on_cpu = spec.needs_gpu and not on_gpu
                return Guess(rate * steps_of(spec.settings), key == like, on_cpu)
        return None

    def expected(self, spec: RunSpec) -> float | None:
        """Seconds expected of a run, or None without any history."""
        guess = self.guess(spec)
        return None if guess is None else guess.seconds

    def cost(self, specs: Iterable[RunSpec]) -> Cost:
        """The estimate for several runs together."""
        specs = list(specs)
        found = [guess for guess in map(self.guess, specs) if guess is not None]
        measured = sum(guess.like for guess in found)
        return Cost(
            runs=len(specs),
            seconds=sum(guess.seconds for guess in found),
            measured=measured,
            scaled=len(found) - measured,
            on_cpu=sum(guess.on_cpu for guess in found),
            needs_gpu=any(spec.needs_gpu for spec in specs),
        )


def steps_of(settings: Mapping[str, Any]) -> int:
    """The training steps of resolved settings; a run that has none counts as one step."""
    budget = settings.get("budget")
    steps = budget.get("steps") if isinstance(budget, Mapping) else None
    return steps if isinstance(steps, int) and steps > 0 else 1
