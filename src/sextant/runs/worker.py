"""One process of the local launcher: imports torch once and carries out run after run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs.context import RunContext
from sextant.runs.plan import read_plan
from sextant.runs.store import open_folder

runs_of_plan = cache(read_plan)
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def work(connection: Connection, context: RunContext) -> None:
    """Takes (plan file, index, again) jobs until the connection closes; tells how each goes.

    Messages: ("progress", step, steps, metrics), ("waiting", owner), and to end a job
    ("ended", ledger line), ("refused", sentence) or ("interrupted",).
    """
    # Ctrl-C reaches the whole process group; the launcher decides and asks with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()

    def tell(*message: Any) -> None:
        # A launcher that is gone is no reason to lose the run: it ends and the next one finds it.
        with suppress(OSError):
            connection.send(message)

    context = replace(
        context,
        report=lambda step, steps, metrics: tell("progress", step, steps, dict(metrics)),
        on_wait=lambda owner: tell("waiting", owner),
    )
    while True:
        try:
            plan, index, again = connection.recv()
        except (EOFError, OSError):
            return
        tell(*carry_out(Path(plan), index, context, again))


def end_with_parent() -> None:
    """Asks Linux for SIGTERM when the launcher is gone, however it went: this process then writes
    its checkpoint and ends, where it would go on unseen."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)  # it went before it could be asked


def carry_out(plan: Path, index: int, context: RunContext, again: bool = False) -> tuple[Any, ...]:
    """Carries out run number `index` of a frozen plan; returns the message that ends the job."""
    try:
        spec = runs_of_plan(plan)[index]
        with output_to(open_folder(context.runs, spec).log):
            from sextant.runs.execute import execute
            from sextant.runs.training import Interrupted

            try:
                return "ended", execute(spec, context, again)
            except Interrupted:
                return ("interrupted",)
    except UserError as error:
        return "refused", str(error)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """What this process and its libraries print goes to the run's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in enumerate(kept, start=1):
                os.dup2(saved, number)
                os.close(saved)


def describe(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The first two scores of a ledger line, for a progress line."""
    shown = [f"{name} {score['value']:.4g}" for name, score in list(scores.items())[:2]]
    return ", ".join(shown)
