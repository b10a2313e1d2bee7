"""One writer a run folder.

The lease is an advisory lock on a file, so it ends with the process that holds it, however that
process dies; the file's content only says who holds it. Locks do not reach everywhere: some file
systems keep them to one machine or have none, and a lease file that somebody deletes locks nobody
out. The holder therefore also keeps an owner file, which only one process can create and which it
touches every few seconds, and asks before it writes a result whether it still holds both.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from sextant.errors import UserError
from sextant.files import WITHOUT_LOCKS, disk_errors, is_path_of, lock

BEAT = 10.0
# A file server may show another machine what was a minute ago.
SILENT = 180.0


class Taken(Exception):
    """Another process works on this run; `owner` says which."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


class Lease:
    """What a process holds while it works on a run: the locked file and the owner file.

    Args:
        path: the lease file; the owner file lies beside it.
    """

    def __init__(self, path: Path, file: TextIO, owner: str) -> None:
        self.path, self.file, self.owner = path, file, owner
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def check(self) -> None:
        """Makes sure that no other process can have taken over the run.

        Raises:
            UserError: where the files were deleted or replaced; nothing may be written any more.
        """
        if not (is_path_of(self.path, self.file.fileno()) and self._owns()):
            raise UserError(
                f"{self.path} was deleted or taken over while the run went on, so nothing more is "
                "written and nothing is recorded; the same command carries the run out again"
            )

    def _owns(self) -> bool:
        return _text(owner_path(self.path)) == self.owner

    def _beat(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                if self._owns():
                    os.utime(owner_path(self.path))

    def end(self) -> None:
        """Gives the run back."""
        self._ended.set()
        if self._owns():
            owner_path(self.path).unlink(missing_ok=True)


def owner_path(path: Path) -> Path:
    """The owner file of a lease."""
    return path.with_name(f"{path.name}.owner")


@contextmanager
def lease(
    path: Path, wait: bool, on_wait: Callable[[str], None] | None = None, poll: float = 0.2
) -> Iterator[Lease]:
    """Holds the lease at `path` for the length of the block.

    Args:
        wait: wait for the owner to finish instead of raising.
        on_wait: called once with the owner's description when waiting begins.
        poll: seconds between attempts.

    Raises:
        Taken: when another process holds it and `wait` is false.
        UserError: where the folder may not be written.
    """
    told = False
    while True:
        with disk_errors(path):
            held = _take(path)
        if isinstance(held, Lease):
            break
        if not wait:
            raise Taken(held)
        if not told and on_wait is not None:
            on_wait(held)
        told = True
        time.sleep(poll)
    try:
        yield held
    finally:
        held.end()
        held.file.close()


def _take(path: Path) -> Lease | str:
    """The lease, or who holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        locked = lock(file.fileno(), wait=False)
    except BlockingIOError:
        file.close()
        return _described(path)
    owner = None
    if is_path_of(path, file.fileno()):
        me = json.dumps(_me())
        if _become_owner(owner_path(path), me, locked):
            file.truncate(0)
            file.write(me)
            file.flush()
            return Lease(path, file, me)
        owner = _described(owner_path(path))
    file.close()
    return owner or "another process"


def _become_owner(path: Path, me: str, locked: bool) -> bool:
    """Creates the owner file; one that a dead process left behind makes way.

    Args:
        locked: whether the lease is locked, so that no process of this machine is its owner unless
            the lease file itself was deleted.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_text(me)
        before = _text(path)
        if before is not None:
            if _lives(_owner(before), _age(path, beside.stat().st_mtime), locked):
                return False
            _remove(path, before)
        try:
            os.link(beside, path)  # fails where the name exists, on NFS too
        except FileExistsError:
            return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def _remove(path: Path, before: str) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        # Between reading and renaming a third process may have come first: this is its file then.
        if _text(aside) != before:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _lives(owner: Mapping[str, Any], age: float, locked: bool) -> bool:
    me = _me()
    same_machine = owner.get("boot") == me["boot"] is not None
    if same_machine and owner.get("processes") == me["processes"]:
        return _started(owner.get("pid")) == owner.get("started") is not None
    if same_machine and locked:
        return False
    return age < SILENT


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "processes": _link("/proc/self/ns/pid"),
    }


def _started(pid: Any) -> str | None:
    """When a process of this machine began; None for one that has ended."""
    fields = (_text(Path(f"/proc/{pid}/stat")) or "").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _age(path: Path, now: float) -> float:
    """Seconds since a file was touched, both times by the clock of its file system."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return SILENT


def holder(path: Path) -> str | None:
    """Who holds the lease at `path` now, or None."""
    owner = owner_path(path)
    found = _text(owner)
    if found is not None and _lives(_owner(found), _age(owner, time.time()), locked=True):
        return _described(owner)
    if not path.is_file():
        return None
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(path)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            return None
        fcntl.flock(file, fcntl.LOCK_UN)
    return None


def _owner(text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, Mapping) else {}


def _described(path: Path) -> str:
    owner = _owner(_text(path) or "")
    if "pid" in owner and "host" in owner:
        return f"process {owner['pid']} on {owner['host']}"
    return "another process"
