"""Reads a YAML mapping field by field; whatever is wrong becomes one sentence naming the field."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sextant.errors import UserError
from sextant.yaml_files import read_yaml as read_file

T = TypeVar("T")
_REQUIRED: Any = object()
_KEY = re.compile(r"[a-z][a-z0-9_]*")


class TableError(UserError, ValueError):
    """A table file, the register, a plan or a ledger line says something that cannot be right; the
    text is one sentence naming the file, the field, what was wrong and what is allowed."""


def read_yaml(path: Path, shown: str) -> Any:
    """The content of a YAML file; `shown` is how messages name it.

    Raises:
        TableError: the file cannot be parsed or writes a key twice.
    """
    try:
        return read_file(path, shown)
    except UserError as error:
        raise TableError(str(error)) from None


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; nearest match: x' for the allowed word most like `word`, or an empty text."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.5)
    return f"; nearest match: {close[0]}" if close else ""


class Fields:
    """One mapping of a file, read field by field.

    Args:
        file: how messages name the file.
        place: where in the file the mapping stands, such as `columns.moons`; empty at the top.
        value: what the file holds there.

    Raises:
        TableError: from every method, in one sentence.
    """

    def __init__(self, file: str, place: str, value: object) -> None:
        self.file, self.place = file, place
        if not isinstance(value, Mapping):
            where = place or "the file"
            raise TableError(f"{file}: {where} must be a mapping, got {_kind(value)}")
        self.values: Mapping[Any, Any] = value
        self._asked: set[str] = set()

    def problem(self, name: str, wrong: str) -> TableError:
        """The error that says `<file>: <place>.<name> <wrong>`"""
        field = ".".join(part for part in (self.place, name) if part)
        return TableError(f"{self.file}: {field} {wrong}")

    def unknown(self, name: str, what: str, got: object, allowed: Iterable[str]) -> TableError:
        """The error for a word outside a closed list, with the nearest allowed word."""
        words = list(allowed)
        listed = ", ".join(words) if words else "none"
        return self.problem(name, f"{what} {got!r}; allowed: {listed}{nearest(got, words)}")

    def raw(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value as YAML gives it."""
        self._asked.add(name)
        if name in self.values:
            return self.values[name]
        if default is _REQUIRED:
            raise self.problem(name, "is missing")
        return default

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """A text that is not empty."""
        value = self.raw(name, default)
        if name in self.values and (not isinstance(value, str) or not value.strip()):
            raise self.problem(name, f"must be a text, got {_kind(value)}")
        return value.strip() if isinstance(value, str) else value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when the field is absent."""
        value = self.raw(name, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.problem(name, f"must be a list of texts, got {_kind(value)}")
        return tuple(v.strip() for v in value)

    def choice(self, name: str, allowed: Iterable[str], default: Any = _REQUIRED) -> str:
        """One word of a closed list."""
        value = self.raw(name, default)
        words = list(allowed)
        if name in self.values and value not in words:
            raise self.unknown(name, "is", value, words)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise self.problem(name, f"must be true or false, got {_kind(value)}")
        return value

    def integer(self, name: str, at_least: int, default: Any = _REQUIRED) -> int:
        """A whole number."""
        value = self.raw(name, default)
        if name in self.values and not is_integer(value, at_least):
            raise self.problem(name, f"must be a whole number >= {at_least}, got {_kind(value)}")
        return value

    def integers(self, name: str, at_least: int) -> tuple[int, ...]:
        """A list of different whole numbers, at least one."""
        value = self.raw(name)
        good = isinstance(value, list) and value and all(is_integer(v, at_least) for v in value)
        if not good or len(set(value)) != len(value):
            wanted = f"must be a list of different whole numbers >= {at_least}"
            raise self.problem(name, f"{wanted}, got {_kind(value)}")
        return tuple(value)

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self.raw(name, default)
        if name in self.values and not is_number(value):
            raise self.problem(name, f"must be a finite number, got {_kind(value)}")
        return float(value) if is_number(value) else value

    def child(self, name: str, default: Any = _REQUIRED) -> Fields:
        """A mapping inside this one."""
        place = ".".join(part for part in (self.place, str(name)) if part)
        return Fields(self.file, place, self.raw(name, default))

    def children(self, name: str, read: Callable[[str, Fields], T]) -> tuple[T, ...]:
        """Each entry of a mapping of mappings, in the order written; empty when absent."""
        inside = self.child(name, {})
        for key in inside.values:
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                wanted = "is not a name of lower-case letters, digits and underscores"
                raise inside.problem(str(key), wanted)
        return tuple(read(key, inside.child(key)) for key in inside.values)

    def end(self) -> None:
        """Refuses fields nobody asked for."""
        for name in self.values:
            if name not in self._asked:
                where = self.place or "a table"
                listed = ", ".join(sorted(self._asked))
                hint = nearest(name, self._asked)
                raise self.problem(str(name), f"is not a field of {where}; allowed: {listed}{hint}")


def is_integer(value: object, at_least: int) -> bool:
    """Whether a YAML value is a whole number not below `at_least` (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def is_number(value: object) -> bool:
    """Whether a YAML value is a finite number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    return repr(value)
