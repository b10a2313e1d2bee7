"""A progress bar for work that takes longer than a person likes to wait without a word."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds of work before a progress bar appears."""


@contextmanager
def progress_bar(total: int, what: str, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """A function (steps) that moves a bar, which appears when the work takes over two seconds.

    Args:
        total: steps of the whole work.
        what: stands before the bar.
        progress: False for no bar; None for one where a person watches, on a terminal.
    """
    if not (sys.stdout.isatty() if progress is None else progress):
        yield lambda steps: None
        return
    from rich.progress import Progress, TimeRemainingColumn

    began = time.monotonic()
    bar = Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    task = bar.add_task(what, total=total)

    def advance(steps: int) -> None:
        bar.advance(task, steps)
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        # One that never started would still end its line.
        if bar.live.is_started:
            bar.stop()
