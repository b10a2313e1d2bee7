"""One job a run, also where file locks do not reach from node to node.

The lease of a run folder is a lock (flock). NFS before version 4 and Lustre mounted without `flock`
keep such locks to one host, so two jobs on two nodes could both hold it. A job therefore also
writes its id beside the lease, in a file that only one job can create, and a job that finds
another's id there asks SLURM whether that job still runs.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.files import read_json
from sextant.runs.lease import holder
from sextant.runs.store import RunFolder

FILE = "owner.json"
ATTEMPTS = 5


@contextmanager
def owned(folder: RunFolder, job: str, runs: Callable[[str], bool]) -> Iterator[None]:
    """Keeps the run's folder for `job` for the length of the block.

    A job that comes back from the queue takes over what its earlier attempt left behind; so does
    any job when the owner no longer runs.

    Args:
        runs: whether the job of an id is on a node now.

    Raises:
        UserError: while another job works on the run.
    """
    path = folder.path / FILE
    content = {
        "job": job,
        "host": socket.gethostname(),
        "since": time.time(),
        "step": step_so_far(folder),
    }
    for _ in range(ATTEMPTS):
        if _create(path, content):
            break
        _remove_what_is_left(path, job, runs)
    else:
        raise UserError(f"{path} changes hands too often to be taken")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def owner_of(folder: RunFolder) -> dict[str, Any] | None:
    """The job that wrote itself into a run's folder (it may have died since): job, host, since when
    and from which step."""
    try:
        return read_json(folder.path / FILE)
    except (OSError, UserError):
        return None


def worker_of(folder: RunFolder) -> str | None:
    """Who carries out the run of a folder now, or None.

    Where the lock of another host is not seen here, the job that wrote itself into the folder is
    believed: it removes its file when it ends, unless it was killed.
    """
    held = holder(folder.path / "lease")
    owner = None if held else owner_of(folder)
    if owner is None or owner["host"] == socket.gethostname():
        return held
    try:
        written = (folder.path / FILE).stat().st_mtime
        if folder.result.is_file() and folder.result.stat().st_mtime >= written:
            return None
    except FileNotFoundError:
        return None
    return f"job {owner['job']} on {owner['host']}"


def step_so_far(folder: RunFolder) -> int:
    """The step an interrupted run told of last, 0 where it has no checkpoint to go on from."""
    if not (folder.checkpoint.is_file() and folder.state.is_file()):
        return 0
    return read_json(folder.state)["step"]


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Writes the file whole or not at all; a hard link fails where the name exists, on NFS too."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    beside.write_text(json.dumps(content))
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def _remove_what_is_left(path: Path, job: str, runs: Callable[[str], bool]) -> None:
    try:
        before = path.read_text()
        owner = json.loads(before)
    except OSError:
        return  # it has just been given back
    if owner["job"] != job and runs(owner["job"]):
        raise UserError(f"job {owner['job']} on {owner['host']} works on this run")
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        # Between reading and renaming a third job may have come first: then this was its file.
        if aside.read_text() != before:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
