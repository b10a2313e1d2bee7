"""Keeps generated data on disk and draws it on several processes.

This module and the generators import numpy only, so that a worker process starts in a fraction of
a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as counting
from pathlib import Path
from typing import Any

import numpy as np

from sextant.data.folders import cache_folder
from sextant.ranges import at_least

SERIAL_SECONDS = 1.0  # a pool that would work for less time than this costs more than it saves
QUIET_SECONDS = 2.0  # work that takes longer shows a progress bar
DESCRIPTION = "description.json"


@dataclass(frozen=True)
class Generated:
    """Generated arrays by name, read-only and mapped from disk, and the digest of their content.

    `content` is twelve hex digits over the digests of all files: equal arrays, equal digits.
    """

    arrays: Mapping[str, np.ndarray]
    content: str
    folder: Path


def cached(
    name: str, law: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> Generated:
    """The arrays of `make()`, made once for every `law` and kept beside the fetched data sets.

    They lie in `<data cache>/generated/<name>-<12 hex of the law>`. They arrive in a temporary
    folder that is renamed under a lock: a second process waits and finds them, and a killed one
    leaves nothing half made. A folder whose bytes have changed is made again.

    Args:
        name: a word for people, the first part of the folder's name.
        law: everything the arrays depend on, the version of the generator too; JSON values.
        make: makes the arrays, by names that are file names without suffix.

    Time is `make`'s, or that of reading every byte once.
    """
    text = json.dumps(law, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    root = cache_folder() / "generated"
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"{name}-{key}"
    with _lock(root / f".{name}-{key}.lock"):
        if (found := _read(target)) is not None:
            return found
        # Left by a process that was killed while it held the lock.
        for leftover in root.glob(f".{name}-{key}.*/"):
            shutil.rmtree(leftover, ignore_errors=True)
        arrays = make()
        with tempfile.TemporaryDirectory(prefix=f".{name}-{key}.", dir=root) as scratch:
            folder = Path(scratch) / "files"
            folder.mkdir()
            for part, values in arrays.items():
                np.save(folder / f"{part}.npy", np.ascontiguousarray(values))
            digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
            description = {"law": json.loads(text), "files": digests}
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True))
            if target.exists():
                target.rename(Path(scratch) / "replaced")
            folder.rename(target)
        return _read(target)


def _read(folder: Path) -> Generated | None:
    """The arrays of a folder, or None when it is missing or its bytes are not the described."""
    try:
        digests = json.loads((folder / DESCRIPTION).read_text())["files"]
        if any(_digest(folder / name) != digest for name, digest in digests.items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    arrays = {Path(name).stem: np.load(folder / name, mmap_mode="r") for name in digests}
    content = hashlib.sha256("\n".join(sorted(digests.values())).encode()).hexdigest()[:12]
    return Generated(arrays, content, folder)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The lock file stays: removing it would let a third process lock a file nobody else sees.
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def blocks(draw: Callable[[int], Any], workers: int | None = None) -> Iterator[Any]:
    """draw(0), draw(1), ... in this order without end, on several processes once it takes long.

    What comes out does not depend on the number of workers. Close the iterator when enough has
    come: blocks drawn ahead are thrown away.

    Args:
        draw: a picklable function of the block's number.
        workers: processes; None takes as many as this process may use.

    Raises:
        ValueError: for fewer than one worker.
    """
    if workers is not None:
        at_least(1, workers=workers)
    workers = workers or len(os.sched_getaffinity(0))
    # A daemonic process may have no children.
    alone = workers == 1 or multiprocessing.current_process().daemon
    started = time.monotonic()
    for number in counting():
        if not alone and time.monotonic() - started > SERIAL_SECONDS:
            yield from _pooled(draw, number, workers)
        yield draw(number)


def _pooled(draw: Callable[[int], Any], first: int, workers: int) -> Iterator[Any]:
    from concurrent.futures import ProcessPoolExecutor

    # A fork would copy the threads' locks of torch in an unknown state.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    numbers = counting(first)
    waiting = deque(pool.submit(draw, next(numbers)) for _ in range(2 * workers))
    try:
        while True:
            yield waiting.popleft().result()
            waiting.append(pool.submit(draw, next(numbers)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much of `total` is done; slow work shows a bar with the
    time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    task = bars.add_task(label, total=total)
    started, shown = time.monotonic(), False

    def done(amount: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > QUIET_SECONDS:
            bars.start()
            shown = True
        bars.update(task, completed=min(amount, total))

    try:
        yield done
    finally:
        if shown:
            bars.stop()
