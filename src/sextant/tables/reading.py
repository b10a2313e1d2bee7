"""Reads the table files and the register through their schemas."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from sextant.errors import UserError
from sextant.schemas import Schema, checked
from sextant.yaml_files import read_yaml

S = TypeVar("S", bound=Schema)


class TableError(UserError, ValueError):
    """A table file, the register, a plan or a ledger line says something that cannot be right; the
    text is a line for each fault: the file, the field, what was wrong and what is allowed."""


def read(schema: type[S], path: Path, shown: str) -> S:
    """What a file says; `shown` is how messages name it.

    Raises:
        TableError: the file cannot be parsed or writes a key twice, or all faults of its content.
    """
    try:
        content = read_yaml(path, shown)
    except UserError as error:
        raise TableError(str(error)) from None
    return checked(schema, content, shown, TableError)
