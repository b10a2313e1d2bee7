"""The register: which number means which table, for the built ones and those still to come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from sextant.schemas import Count, Key, Schema, Text, nearest, refuse, unknown_name
from sextant.tables.reading import TableError, read

REGISTER_FILE = "tasks/register.yaml"


class RegisterEntry(Schema):
    """One number of the register. `paper` is a key of `Register.papers`; `printed` is full, part
    or none; `small_data` is what tier small runs on."""

    number: Count
    id: Text
    title: Text
    paper: Text
    place: Text
    printed: Literal["full", "part", "none"]
    small_data: Text


class Register(Schema):
    """All numbers, and the papers' titles and short names by key."""

    papers: dict[Key, Text]
    names: dict[Key, Text]
    tables: Annotated[tuple[RegisterEntry, ...], Field(min_length=1)]

    @field_validator("names")
    @classmethod
    def _name_every_paper(cls, names: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        papers = info.data.get("papers", names)
        lacking = [((paper,), "is missing") for paper in papers if paper not in names]
        unknown = [((), unknown_name("names", n, papers)) for n in names if n not in papers]
        refuse(lacking + unknown)
        return names

    @field_validator("tables")
    @classmethod
    def _different_tables_of_papers(
        cls, tables: tuple[RegisterEntry, ...], info: ValidationInfo
    ) -> tuple[RegisterEntry, ...]:
        papers, faults, seen = info.data.get("papers"), [], set()
        for position, entry in enumerate(tables):
            if papers is not None and entry.paper not in papers:
                faults.append(((position, "paper"), unknown_name("is", entry.paper, papers)))
            for name in ("number", "id"):
                value = getattr(entry, name)
                if value in seen:
                    faults.append(((position, name), f"is {value!r}, as in a table before"))
                seen.add(value)
        refuse(faults)
        return tables

    @cached_property
    def entries(self) -> Mapping[int, RegisterEntry]:
        """The tables by number."""
        return {entry.number: entry for entry in self.tables}

    def entry(self, which: int | str) -> RegisterEntry:
        """The entry of a number (`12`, `"12"`) or id (`"otmf-1"`).

        Raises:
            TableError: there is none; the nearest id is given.
        """
        if isinstance(which, int) or which.isdigit():
            if int(which) in self.entries:
                return self.entries[int(which)]
            first, last = min(self.entries), max(self.entries)
            raise TableError(f"there is no table {which}; numbers go from {first} to {last}")
        by_id = {entry.id: entry for entry in self.tables}
        if which in by_id:
            return by_id[which]
        raise TableError(
            f"there is no table {which!r}; allowed: a number or an id of {REGISTER_FILE}"
            f"{nearest(which, by_id)}"
        )


def read_register(root: Path) -> Register:
    """Reads `tasks/register.yaml`.

    Raises:
        TableError: the file is missing, or a line for each fault.
    """
    path = root / REGISTER_FILE
    if not path.is_file():
        raise TableError(f"{REGISTER_FILE}: the file is missing from the project folder")
    return read(Register, path, REGISTER_FILE)
