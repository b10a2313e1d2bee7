"""What `tasks/datasets/<name>.yaml` says about a data set."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sextant.errors import UserError

REQUIRED = ("title", "licence", "citation", "files")
OPTIONAL = ("sources", "stands_for", "note")


class UnknownData(UserError, ValueError):
    """The name belongs to no data set described in `tasks/datasets`."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its path inside the folder, its size and its sha256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Definition:
    """One described data set.

    Args:
        name: the folder's name and what loaders ask for.
        title: the true name, as it is printed on tables.
        licence: under which terms the data may be used.
        citation: whom to cite.
        files: every file that belongs to it.
        sources: pairs of (kind, settings) in the order they are tried.
        stands_for: the public data set this one is taken from or stands in for, or None.
        note: what differs from the official release, or None.
    """

    name: str
    title: str
    licence: str
    citation: str
    files: tuple[DataFile, ...]
    sources: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    stands_for: str | None = None
    note: str | None = None

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(file.bytes for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the sha256 over the sorted digests of the files."""
        digests = "\n".join(sorted(file.sha256 for file in self.files))
        return hashlib.sha256(digests.encode()).hexdigest()[:12]


def definitions_folder() -> Path:
    """The folder of the descriptions, found without importing any task.

    Raises:
        FileNotFoundError: when the `tasks` package is not beside this one.
    """
    # A namespace package's search path may list folders that do not exist.
    spec = importlib.util.find_spec("tasks")
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (folder := Path(place) / "datasets").is_dir():
            return folder
    raise FileNotFoundError("tasks/datasets is missing: run from a checkout or install the project")


def names() -> list[str]:
    """The names of all described data sets, sorted."""
    return sorted(path.stem for path in definitions_folder().glob("*.yaml"))


def definition(name: str) -> Definition:
    """Reads the description of data set `name`.

    Raises:
        UnknownData: for a name that is not described, with the nearest one that is.
        ValueError: for a description with missing, unknown or malformed entries.
    """
    choices = names()
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(choices)}"
        raise UnknownData(f"no data set is called {name!r}; {hint}")
    from sextant.yaml_files import read_yaml

    where = f"tasks/datasets/{name}.yaml"
    content = read_yaml(definitions_folder() / f"{name}.yaml", where)
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must hold a mapping, got {type(content).__name__}")
    if missing := [key for key in REQUIRED if not content.get(key)]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(set(content) - set(REQUIRED) - set(OPTIONAL)):
        raise ValueError(f"{where} has unknown entries {', '.join(unknown)}")
    return Definition(
        name=name,
        title=content["title"],
        licence=content["licence"],
        citation=content["citation"],
        files=tuple(_file(where, path, entry) for path, entry in content["files"].items()),
        sources=tuple(_source(where, entry) for entry in content.get("sources") or ()),
        stands_for=content.get("stands_for"),
        note=content.get("note"),
    )


def _file(where: str, path: str, entry: Any) -> DataFile:
    pure = PurePosixPath(str(path))
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{where}: file {path!r} must be a path inside the data set's folder")
    size, digest = (entry or {}).get("bytes"), str((entry or {}).get("sha256"))
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{where}: bytes of {path!r} must be a whole number, got {size!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{where}: sha256 of {path!r} must be 64 hex digits, got {digest!r}")
    return DataFile(str(pure), size, digest)


def _source(where: str, entry: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(f"{where}: a source must be one 'kind: settings' pair, got {entry!r}")
    ((kind, settings),) = entry.items()
    if not isinstance(settings, Mapping):
        raise ValueError(f"{where}: settings of source {kind!r} must be a mapping")
    return str(kind), settings
