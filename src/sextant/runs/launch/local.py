"""Carries out a frozen plan on this machine: one process a core, one torch thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sextant.runs import ledger
from sextant.runs.context import RunContext
from sextant.runs.launch.progress import Progress
from sextant.runs.spec import RunSpec
from sextant.runs.worker import work

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEATHS_BEFORE_GIVING_UP = 2


@dataclass
class Worker:
    """A process and the index of the run it works on."""

    process: Any
    connection: Connection
    index: int | None = None


@dataclass
class Outcome:
    """How a launch ended: ledger lines, sentences of refusals, and whether it was interrupted."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    interrupted: bool = False


def launch(
    plan: Path,
    specs: Sequence[RunSpec],
    context: RunContext,
    workers: int,
    progress: Progress,
    again: bool = False,
) -> Outcome:
    """Carries out every run of the plan, parents before children, `workers` at a time.

    A run whose process dies is resumed once; if its process dies again it is recorded as failed.
    A run whose parent failed is refused. Ctrl-C leaves every run resumable.
    """
    return _Launch(plan, specs, context, workers, progress, again).carry_out()


class _Launch:
    def __init__(self, plan, specs, context, workers, progress, again) -> None:
        self.plan, self.specs, self.context = plan, list(specs), context
        self.progress, self.again = progress, again
        self.waiting = deque(range(len(self.specs)))
        self.unfinished = {spec.run_id for spec in self.specs}
        self.deaths = [0] * len(self.specs)
        self.outcome = Outcome()
        self.wanted = min(workers, len(self.specs))
        self.workers: list[Worker] = []

    def carry_out(self) -> Outcome:
        def asked_to_stop(signum: int, frame: object) -> None:
            raise KeyboardInterrupt

        with self.progress:
            # A job shell may have Ctrl-C ignored; being asked to end is the same wish.
            before = {number: signal.signal(number, asked_to_stop) for number in STOP_SIGNALS}
            try:
                self.workers = [self._start() for _ in range(self.wanted)]
                self._loop()
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                self.progress.note("stopping: each run writes a checkpoint first")
            finally:
                self._stop()
                for number, handler in before.items():
                    signal.signal(number, handler)
        return self.outcome

    def _loop(self) -> None:
        while True:
            for worker in self.workers:
                if worker.index is None:
                    self._hand_out(worker)
            busy = [worker for worker in self.workers if worker.index is not None]
            if not busy:
                for index in self.waiting:
                    parents = self.specs[index].parents.values()
                    lost = next(p for p in parents if p.run_id in self.unfinished)
                    self._refuse(index, f"it starts from {lost.title}, which did not finish")
                return
            ready = wait([w.connection for w in busy] + [w.process.sentinel for w in busy], 0.5)
            for worker in busy:
                if worker.connection in ready or worker.process.sentinel in ready:
                    self._listen(worker)
            self.progress.refresh()

    def _hand_out(self, worker: Worker) -> None:
        for index in self.waiting:
            parents = {parent.run_id for parent in self.specs[index].parents.values()}
            if not parents & self.unfinished:
                self.waiting.remove(index)
                worker.index = index
                worker.connection.send((str(self.plan), index, self.again))
                self.progress.begin(self.workers.index(worker), self.specs[index])
                return

    def _listen(self, worker: Worker) -> None:
        slot, spec = self.workers.index(worker), self.specs[worker.index]
        try:
            while worker.connection.poll():
                kind, *content = worker.connection.recv()
                if kind == "progress":
                    self.progress.step(slot, *content)
                elif kind == "waiting":
                    self.progress.note(f"{spec.title}: waiting for {content[0]}")
                elif kind == "ended":
                    self._end(worker, content[0])
                    return
                elif kind == "refused":
                    index, worker.index = worker.index, None
                    self._refuse(index, content[0])
                    return
                else:
                    raise KeyboardInterrupt
        except (EOFError, ConnectionResetError):
            self._worker_died(worker)

    def _end(self, worker: Worker, record: Mapping[str, Any]) -> None:
        spec, worker.index = self.specs[worker.index], None
        if record["status"] == "done":
            self.unfinished.discard(spec.run_id)
        self.outcome.records.append(record)
        self.progress.end(self.workers.index(worker), spec, record)

    def _refuse(self, index: int, sentence: str) -> None:
        self.outcome.refused.append(f"{self.specs[index].title}: {sentence}")
        self.progress.note(self.outcome.refused[-1])

    def _worker_died(self, worker: Worker) -> None:
        """A worker died in the middle of a run (the kernel kills what takes too much memory)."""
        worker.process.join()
        index, slot = worker.index, self.workers.index(worker)
        code = worker.process.exitcode
        self.deaths[index] += 1
        self.workers[slot] = self._start()
        if self.deaths[index] < DEATHS_BEFORE_GIVING_UP:
            self.progress.note(f"{self.specs[index].title}: its process died ({code}), resuming")
            self.waiting.appendleft(index)
            return
        spec = self.specs[index]
        record = ledger.new_record(spec, {}) | {
            "status": "failed",
            "reason": "oom" if code == -signal.SIGKILL else "error",
            "message": f"its process died {self.deaths[index]} times, exit code {code}",
            "seconds": 0.0,
            "peak_memory_mb": None,
        }
        ledger.append(self.context.ledger, record)
        self.outcome.records.append(record)
        self.progress.end(slot, spec, record)

    def _start(self) -> Worker:
        processes = multiprocessing.get_context("spawn")
        ours, theirs = processes.Pipe()
        kept = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        try:
            process = processes.Process(target=work, args=(theirs, self.context), daemon=True)
            process.start()
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return Worker(process, ours)

    def _stop(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            if worker.index is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        for worker in self.workers:
            worker.process.join(max(0.1, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
