"""Finds, reads and checks the table files, and says which runs a table asks for.

A table file is `tasks/<family>/tables/<id>.yaml`. It is written before the runs: rows, columns,
seeds by tier, printed values, margins and claims. `<id>.md` beside it says what deviates from the
paper and what was assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sextant.options import Options
from sextant.schemas import nearest
from sextant.tables.essay import read_essay
from sextant.tables.reading import TableError, read
from sextant.tables.register import Register, read_register
from sextant.tables.schema import TIERS, TableDefinition
from sextant.tables.table_file import TableFile

__all__ = [
    "TIERS",
    "Request",
    "TableDefinition",
    "TableError",
    "check_configs",
    "find_table",
    "find_tables",
    "load",
    "requests",
]


@dataclass(frozen=True)
class Request:
    """One run that a cell asks for. Columns that share a task ask for the same run, so equal
    (task, method, seed) are one run; points of the evaluation axis never ask again."""

    row: str
    column: str
    task: str
    method: str
    seed: int


def load(path: Path, root: Path, register: Register | None = None) -> TableDefinition:
    """Reads one table file.

    Args:
        path: the file.
        root: the project folder; messages name the file relative to it.
        register: when given, number, id and paper must agree with it.

    Raises:
        TableError: a line for each fault: the file, the field, what was wrong, what is allowed.
    """
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    essay = read_essay(path.with_suffix(".md"), f"{shown.removesuffix('.yaml')}.md")
    table = read(TableFile, path, shown).definition(shown, essay)
    faults = [] if table.id == path.stem else [f"id is {table.id!r}, but the file is {path.name}"]
    if register is None:
        return _faultless(table, faults)
    entry = register.entries.get(table.number)
    if entry is None or entry.id != table.id:
        known = {e.id: e.number for e in register.tables}
        wanted = known.get(table.id, "no number yet")
        faults.append(f"number is {table.number}, but the register gives {table.id} {wanted}")
    elif table.paper.key != entry.paper:
        near = nearest(table.paper.key, register.papers)
        faults.append(
            f"paper.key is {table.paper.key!r}, but the register says {entry.paper}{near}"
        )
    _faultless(table, faults)
    return replace(table, paper=replace(table.paper, title=register.papers[table.paper.key]))


def _faultless(table: TableDefinition, faults: Sequence[str]) -> TableDefinition:
    if faults:
        raise TableError("\n".join(f"{table.file}: {fault}" for fault in faults))
    return table


def find_tables(
    root: Path, broken: Callable[[TableError], None] | None = None
) -> list[TableDefinition]:
    """Every table file of the project, by number.

    Args:
        broken: told what is wrong with a file, which is then left out; without it that is raised.

    Raises:
        TableError: the register is wrong, a file is wrong, or two files have one number.
    """
    register = read_register(root)
    by_number: dict[int, TableDefinition] = {}
    for path in sorted(root.glob("tasks/*/tables/*.yaml")):
        try:
            table = load(path, root, register)
            other = by_number.setdefault(table.number, table)
            if other is not table:
                _faultless(table, [f"number is {table.number}, which {other.file} has already"])
        except TableError as error:
            if broken is None:
                raise
            broken(error)
    return [by_number[number] for number in sorted(by_number)]


def find_table(root: Path, which: int | str) -> TableDefinition:
    """One table by number (`12`, `"12"`) or id (`"otmf-1"`); other table files are not read.

    Raises:
        TableError: no such number or id, a table that is not built yet, or a wrong file.
    """
    register = read_register(root)
    entry = register.entry(which)
    built = {path.stem: path for path in sorted(root.glob("tasks/*/tables/*.yaml"))}
    if entry.id not in built:
        numbers = sorted(e.number for e in register.entries.values() if e.id in built)
        listed = ", ".join(str(number) for number in numbers) or "none"
        raise TableError(
            f"table {entry.number} ({entry.id}, {entry.title}) is not built yet; built: {listed}"
        )
    return load(built[entry.id], root, register)


def requests(
    definition: TableDefinition, tier: str, seeds: Sequence[int] | None = None
) -> list[Request]:
    """The runs a table asks for at a tier: by row, column, seed.

    Args:
        seeds: instead of the seeds the table states for the tier.

    Raises:
        TableError: the table states no seeds for the tier.
    """
    chosen = tier_seeds(definition, tier) if seeds is None else tuple(seeds)
    return [
        Request(row.key, column.key, str(column.task), row.method, seed)
        for row in definition.rows
        for column in definition.columns
        if definition.applies(row, column)
        for seed in chosen
    ]


def tier_seeds(definition: TableDefinition, tier: str) -> tuple[int, ...]:
    """The seeds of a tier.

    Raises:
        TableError: the table states none for it.
    """
    if tier not in definition.seeds:
        raise TableError(
            f"{definition.file}: seeds has no tier {tier!r}; allowed: {', '.join(definition.seeds)}"
            f"{nearest(tier, definition.seeds)}"
        )
    return definition.seeds[tier]


def check_configs(definition: TableDefinition, root: Path) -> None:
    """Checks that each task and method of the table is an option of `conf/`.

    Raises:
        TableError: a line for each that is missing; the nearest existing name is given.
    """
    used = [("columns", c.key, "task", str(c.task)) for c in definition.columns]
    used += [("rows", r.key, "method", r.method) for r in definition.rows]
    options = Options(root / "conf")
    known = {group: options.names(group) for group in ("task", "method")}
    faults = [
        f"{part}.{key}.{group} is {name!r}, which no file of conf/{group} offers"
        f"{nearest(name, known[group])}"
        for part, key, group, name in used
        if name not in known[group]
    ]
    _faultless(definition, faults)
