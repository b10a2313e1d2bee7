"""The register: which number means which table, for the built ones and those still to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sextant.tables.reading import Fields, TableError, nearest, read_yaml

REGISTER_FILE = "tasks/register.yaml"


@dataclass(frozen=True)
class RegisterEntry:
    """One number of the register. `paper` is a key of `Register.papers`; `printed` is full, part
    or none; `small_data` is what tier small runs on."""

    number: int
    id: str
    title: str
    paper: str
    place: str
    printed: str
    small_data: str


@dataclass(frozen=True)
class Register:
    """All numbers, and the papers' titles and short names by key."""

    entries: Mapping[int, RegisterEntry]
    papers: Mapping[str, str]
    names: Mapping[str, str]

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
        by_id = {entry.id: entry for entry in self.entries.values()}
        if which in by_id:
            return by_id[which]
        raise TableError(
            f"there is no table {which!r}; allowed: a number or an id of {REGISTER_FILE}"
            f"{nearest(which, by_id)}"
        )


def read_register(root: Path) -> Register:
    """Reads `tasks/register.yaml`.

    Raises:
        TableError: the file is missing, or one sentence on what is wrong in it.
    """
    path = root / REGISTER_FILE
    if not path.is_file():
        raise TableError(f"{REGISTER_FILE}: the file is missing from the project folder")
    fields = Fields(REGISTER_FILE, "", read_yaml(path, REGISTER_FILE))
    inside = fields.child("papers")
    papers = {key: inside.text(key) for key in inside.values}
    short = fields.child("names")
    names = {key: short.text(key) for key in papers}
    short.end()
    tables = fields.raw("tables")
    fields.end()
    if not isinstance(tables, list) or not tables:
        raise fields.problem("tables", "must be a list of tables")
    entries: dict[int, RegisterEntry] = {}
    ids: set[str] = set()
    for position, value in enumerate(tables):
        entry = _entry(Fields(REGISTER_FILE, f"tables[{position}]", value), papers)
        if entry.number in entries or entry.id in ids:
            raise fields.problem("tables", f"has {entry.number} or {entry.id} twice")
        entries[entry.number] = entry
        ids.add(entry.id)
    return Register(entries, papers, names)


def _entry(fields: Fields, papers: Mapping[str, str]) -> RegisterEntry:
    entry = RegisterEntry(
        number=fields.integer("number", 1),
        id=fields.text("id"),
        title=fields.text("title"),
        paper=fields.choice("paper", papers),
        place=fields.text("place"),
        printed=fields.choice("printed", ("full", "part", "none")),
        small_data=fields.text("small_data"),
    )
    fields.end()
    return entry
