"""What `tasks/datasets/<name>.yaml` says about a data set."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sextant.errors import UserError
from sextant.schemas import Schema, Text, Whole, checked, empty_as
from sextant.yaml_files import read_yaml


class UnknownData(UserError, ValueError):
    """The name belongs to no data set described in `tasks/datasets`."""


class BadDescription(UserError, ValueError):
    """A description of a data set has faults; the text names each."""


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError("must be a path inside the data set's folder")
    return str(pure)


def _digest(value: str) -> str:
    if len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"must be 64 hex digits, got {value!r}")
    return value


def _pair(source: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    if len(source) != 1:
        raise ValueError(f"must be one 'kind: settings' pair, got {', '.join(source) or 'none'}")
    return source


class FileFacts(Schema):
    """Size and sha256 of a file."""

    bytes: Whole
    sha256: Annotated[str, AfterValidator(_digest)]


class DataFile(FileFacts):
    """One file of a data set: its path inside the folder, its size and its sha256."""

    path: str


class Description(Schema):
    """The fields of a description; see `Definition`."""

    title: Text
    licence: Text
    citation: Text
    files: Annotated[dict[Annotated[str, AfterValidator(_inside)], FileFacts], Field(min_length=1)]
    sources: Annotated[
        tuple[Annotated[dict[str, dict[str, Any]], AfterValidator(_pair)], ...], empty_as(list)
    ] = ()
    stands_for: Text | None = None
    note: Text | None = None


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
        BadDescription: every fault of the description, one line each.
    """
    choices = names()
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(choices)}"
        raise UnknownData(f"no data set is called {name!r}; {hint}")
    where = f"tasks/datasets/{name}.yaml"
    content = read_yaml(definitions_folder() / f"{name}.yaml", where)
    described = checked(Description, content, where, BadDescription)
    files = (DataFile(path=path, **dict(facts)) for path, facts in described.files.items())
    sources = (pair for source in described.sources for pair in source.items())
    return Definition(name, **dict(described) | {"files": tuple(files), "sources": tuple(sources)})
