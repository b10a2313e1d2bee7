"""One writer a run folder.

The lease is an advisory lock on a file, so it ends with the process that holds it, however that
process dies; the file's content only says who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Taken(Exception):
    """Another process works on this run; `owner` says which."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def lease(
    path: Path, wait: bool, on_wait: Callable[[str], None] | None = None, poll: float = 0.2
) -> Iterator[None]:
    """Holds the lease at `path` for the length of the block.

    Args:
        wait: wait for the owner to finish instead of raising.
        on_wait: called once with the owner's description when waiting begins.
        poll: seconds between attempts.

    Raises:
        Taken: when another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    raise Taken(_owner(path)) from None
                if not told and on_wait is not None:
                    on_wait(_owner(path))
                told = True
                time.sleep(poll)
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def holder(path: Path) -> str | None:
    """Who holds the lease at `path` now, or None."""
    if not path.is_file():
        return None
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(path)
        fcntl.flock(file, fcntl.LOCK_UN)
    return None


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
