"""Writes that leave the old file or the new one, never half of it, and locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sextant.errors import UserError

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full, read-only or failing disk into a sentence."""
    try:
        yield
    except UserError:
        raise  # a sentence already, such as that of a data set that is not here
    except OSError as error:
        raise UserError(f"cannot write {path}: {disk_trouble(error)}") from error


def disk_trouble(error: OSError) -> str:
    """What is wrong with a disk, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        where = f" ({error.filename})" if error.filename else ""
        return f"it may not be written{where}"
    return str(error)


def set_aside(path: Path) -> None:
    """Keeps a damaged file beside, under a name that nobody reads."""
    with disk_errors(path):
        os.replace(path, path.with_name(f"{path.name}.damaged"))


def is_path_of(path: Path, descriptor: int) -> bool:
    """Whether an open file is still what its path names: it may have been deleted or replaced."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside `path`, flushes to disk and renames, so a reader never sees half a file."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        beside = Path(name)
        try:
            write(beside)
            with beside.open("rb") as written:
                os.fsync(written.fileno())
            beside.chmod(0o644)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Adds a line under a lock; a write that fails leaves the file as it was.

    A line that was cut off before stays a line of its own.

    Raises:
        UserError: for a full or read-only disk.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with path.open("a+b", buffering=0) as file:
                lock(file.fileno())
                if not is_path_of(path, file.fileno()):
                    continue  # replaced meanwhile, by git or by a migration
                _append(file, f"{line}\n".encode())
                return


def _append(file: BinaryIO, content: bytes) -> None:
    size = os.fstat(file.fileno()).st_size
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            content = b"\n" + content
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, "no space left on device")
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def lock(descriptor: int, wait: bool = True) -> bool:
    """Locks an open file for this process alone; False where the file system has no such locks.

    Raises:
        BlockingIOError: where another process holds the lock and `wait` is false.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        raise
    return True


def write_json(path: Path, content: Any) -> None:
    replace_file(path, lambda beside: beside.write_text(json.dumps(content, indent=1) + "\n"))


def read_json(path: Path) -> Any:
    """The content of a JSON file we wrote.

    Raises:
        UserError: where the file was damaged.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else is in such a block for the file `path`.

    The file stays: removing it would let a third process lock a file that nobody else sees.
    """
    with path.open("a") as handle:
        lock(handle.fileno())
        yield
