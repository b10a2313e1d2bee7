"""What a person sees while a plan is carried out: a bar with ETA and what each worker does.

On a terminal the bars live; in a log every ended run is one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from sextant.runs.spec import RunSpec
from sextant.runs.worker import describe
from sextant.words import duration

SILENCE = 30.0  # seconds without a word where no bar can be drawn


class Progress:
    """Counts the runs of one launch.

    Args:
        specs: the runs that will be carried out.
        expected: seconds expected of a run, or None where nothing like it was timed.
        workers: processes side by side.
        on_end: called with each ledger line (to print a table row that became complete).
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        expected: Callable[[RunSpec], float | None],
        workers: int,
        on_end: Callable[[Mapping[str, Any]], str | None] = lambda record: None,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console()
        self.live = self.console.is_terminal
        self.specs, self.expected, self.workers = list(specs), expected, max(1, workers)
        self.on_end = on_end
        self.said = time.monotonic()
        self.left = {spec.run_id: spec for spec in specs}
        self.measured: dict[tuple[str, str], list[float]] = {}
        self.ended = 0
        self.running: dict[int, tuple[RunSpec, float]] = {}
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.live,
            transient=True,
        )
        self.overall = self.bars.add_task("runs", total=len(self.specs), note="")
        self.slots: dict[int, Any] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, slot: int, spec: RunSpec) -> None:
        self.running[slot] = (spec, time.monotonic())
        if slot not in self.slots:
            self.slots[slot] = self.bars.add_task("", total=None, note="")
        self.bars.reset(self.slots[slot], description=spec.title, total=None, note="starting")

    def step(self, slot: int, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        note = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:1])
        self.bars.update(self.slots[slot], completed=step, total=steps, note=note)
        if not self.live and time.monotonic() - self.said > SILENCE and slot in self.running:
            self.said = time.monotonic()
            self.note(f"{self.running[slot][0].title}: step {step} of {steps}, {note}")

    def end(self, slot: int, spec: RunSpec, record: Mapping[str, Any]) -> None:
        self.ended += 1
        self.left.pop(spec.run_id, None)
        self.running.pop(slot, None)
        self.measured.setdefault((spec.task, spec.method), []).append(record["seconds"])
        self.bars.update(self.overall, completed=self.ended, note=self.eta())
        if record["status"] == "done":
            outcome = describe(record["scores"])
        else:
            outcome = f"failed: {record['reason']} ({record.get('message', '')})"
        self.console.print(
            f"[{self.ended}/{len(self.specs)}] {spec.title}: {outcome}"
            f" ({record['seconds']:.0f} s) {self.eta()}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        row = self.on_end(record)
        if row:
            self.console.print(row, markup=False, highlight=False, soft_wrap=True)

    def note(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        self.bars.update(self.overall, note=self.eta())

    def eta(self) -> str:
        """Time left for the whole plan, or nothing while nothing like it was timed."""
        seconds = 0.0
        for spec in self.left.values():
            known = self.measured.get((spec.task, spec.method))
            guess = sum(known) / len(known) if known else self.expected(spec)
            if guess is None:
                if not self.measured:
                    return ""
                every = [value for values in self.measured.values() for value in values]
                guess = sum(every) / len(every)
            seconds += guess
        now = time.monotonic()
        seconds -= sum(min(now - started, 600) for _, started in self.running.values())
        return f"about {duration(max(0.0, seconds) / self.workers)} left"
