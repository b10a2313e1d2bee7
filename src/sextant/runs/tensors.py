"""Tensors on disk: written through a file, so that a full disk is told as one, and read once."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io import CheckpointIO

from sextant.files import is_path_of, set_aside

PARTS = ("global_step", "state_dict", "optimizer_states", "loops", "callbacks")


class Damaged(Exception):
    """A file that torch cannot read; it has been set aside."""


class _Told:
    """A file that remembers why a write failed: torch raises a RuntimeError of its own over it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(content: Any, path: Path) -> None:
    """Writes what `torch.save` writes.

    Raises:
        OSError: where the disk is full or fails.
    """
    with path.open("wb") as file:
        told = _Told(file)
        try:
            torch.save(content, told)
        except RuntimeError:
            if told.error is not None:
                raise told.error from None
            raise


def load(path: Path) -> Any:
    """The tensors and plain data of a file, on the CPU; a damaged file is set aside.

    Raises:
        Damaged: for a file that is torn or no file of torch.
        OSError: where the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            _check_sums(file)
            return torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if is_path_of(path, file.fileno()):
                set_aside(path)
            raise Damaged(f"{path} is damaged ({type(error).__name__})") from error


def _check_sums(file: BinaryIO) -> None:
    """Compares the file's parts with their check sums, which torch itself does not."""
    with zipfile.ZipFile(file) as archive:
        torn = archive.testzip()
    if torn is not None:
        raise ValueError(f"{torn} has another check sum")
    file.seek(0)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A run's checkpoint; None, with a sentence, where there is none that can be used."""
    try:
        content = load(path)
        if isinstance(content, Mapping) and all(part in content for part in PARTS):
            return dict(content)
        set_aside(path)
        print(f"{path} is no checkpoint of a run: it is set aside and the run begins anew")
    except FileNotFoundError:
        pass
    except Damaged as damage:
        print(f"{damage}: it is set aside and the run begins anew")
    return None


class ReadOnce(CheckpointIO):
    """Gives Lightning the checkpoint that was read already, since the file may have changed."""

    def __init__(self, content: dict[str, Any] | None) -> None:
        self.content = content

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content, self.content = self.content, None
        if content is None:
            raise RuntimeError(f"the checkpoint {path} was handed over already")
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
