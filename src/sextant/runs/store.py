"""The folder of a run and writes that leave the old state or the new one, never half of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs.spec import RunSpec


@dataclass(frozen=True)
class RunFolder:
    """Everything one run keeps: results/runs/<run id>/."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.ckpt"

    @property
    def code(self) -> Path:
        """The digest of the code that wrote the checkpoint."""
        return self.path / "code.txt"

    @property
    def student(self) -> Path:
        return self.path / "student.pt"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.csv"

    @property
    def samples(self) -> Path:
        return self.path / "samples.npz"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def finished(self) -> dict[str, Any] | None:
        """The ledger line this folder's run ended with, or None while it has not ended."""
        return read_json(self.result) if self.result.is_file() else None


def open_folder(runs: Path, spec: RunSpec) -> RunFolder:
    """The run's folder, made and labelled with its spec if it is new."""
    folder = RunFolder(runs / spec.run_id)
    with disk_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        if not folder.spec.is_file():
            write_json(folder.spec, spec.to_json())
    return folder


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and run the same command again"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            reason = "it may not be written"
        else:
            raise
        raise UserError(f"cannot write {path}: {reason}") from error


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

    Raises:
        UserError: for a full or read-only disk.
    """
    content = (line + "\n").encode()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, "no space left on device")
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise


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
