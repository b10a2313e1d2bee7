"""The words of a table, the same in every format: cells, headers, footers, claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sextant.tables.cells import Cell
from sextant.tables.schema import Column, Line, Published, Row
from sextant.tables.table import Table

SYMBOLS = {"holds": "✓", "fails": "✗", "inconclusive": "?", "not_run": "–"}
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class CellText:
    """`ours` is the number or why there is none; `mark` what qualifies it (`(3/5)!`, `stale`, `‡`);
    `printed` the paper's value with the verdict, empty where nothing is printed."""

    ours: str
    mark: str
    printed: str

    @property
    def whole(self) -> str:
        """Number and mark on one line."""
        return f"{self.ours} {self.mark}".strip()


def cell_text(cell: Cell, column: Column) -> CellText:
    """What stands in a cell; a mean always carries k/N, with ! where seeds are lacking."""
    state, count = cell.state, f"{cell.n}/{cell.planned}"
    if state == "not_applicable":
        ours, mark = "n/a", ""
    elif state == "missing":
        ours, mark = "--", f"missing {cell.planned}/{cell.planned}"
    elif state.startswith("failed"):
        failed = f"{len(cell.failures)}/{cell.planned}"
        ours, mark = f"FAIL({cell.reason} {failed})", ""
        if cell.missing:
            mark = f"missing {len(cell.missing)}/{cell.planned}"
    else:
        ours = _number(cell.mean, cell.std, column.digits)
        mark = f"({count})!" if state == "partial" else f"({count})"
        if cell.stale:
            mark = f"{mark} stale".strip()
        if cell.guarded:
            mark = f"{mark} ‡"
    return CellText(ours, mark, _printed(cell.published, cell.verdict, column.digits))


def line_texts(table: Table, line: Line) -> list[tuple[Column, CellText]]:
    """What stands in the cells of a line."""
    columns = table.definition.all_columns
    return [(column, cell_text(table.cells[line.key, column.key], column)) for column in columns]


def _number(value: float | None, std: float | None, digits: int) -> str:
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return f"{value:.{digits}f}{spread}"


def _printed(published: Published | None, verdict: str | None, digits: int) -> str:
    if published is None or published.word in ("NA", "not found"):
        return ""
    return f"paper {printed_text(published, digits)}" + (f", {verdict}" if verdict else "")


def printed_text(published: Published, digits: int) -> str:
    """The paper's value as it prints it, or the word that stands in its place."""
    if published.word is not None:
        return published.word
    value = _number(published.mean, published.std, digits)
    return value + (f" (n={published.n})" if published.n is not None else "")


def column_note(column: Column) -> str:
    """The unit and what is better, such as `W2 ↓`, or `% → 50` with a target."""
    aim = ARROWS[column.better] if column.target is None else f"→ {column.target:g}"
    return f"{column.unit} {aim}" if column.unit else aim


def row_label(row: Row) -> str:
    """The label of a row, marked where it is a reference or deviates from the paper."""
    return row.label + (" †" if row.reference else "") + (" *" if row.deviations else "")


def line_name(line: Line, axis: str | None) -> str:
    """`OT Mean Flow, exact (NFE 1)`."""
    return line.row.label if line.at is None else f"{line.row.label} ({axis} {line.at})"


def groups(table: Table) -> Iterator[tuple[int | None, str, list[Line]]]:
    """The lines by point of the evaluation axis, with a name for each; the point is None for rows
    that are evaluated once."""
    definition = table.definition
    for point in dict.fromkeys(line.at for line in definition.lines):
        name = "evaluated once" if point is None else f"{definition.axis} {point}"
        yield point, name, [line for line in definition.lines if line.at == point]


def file_stem(table: Table) -> str:
    """`table-07`, the beginning of every file name of a table."""
    return f"table-{table.definition.number:02d}"


def page_stem(table: Table) -> str:
    """`table-12.small`, the name of a table's files at its tier."""
    return f"{file_stem(table)}.{table.tier}"


def title(table: Table) -> str:
    """`Table 12: One-step generation in the plane`."""
    return f"Table {table.definition.number}: {table.definition.title}"


def subtitle(table: Table) -> str:
    """The paper, the place in it, and what of it is known."""
    paper = table.definition.paper
    known = {"full": "all printed values known", "part": "printed values known in part"}
    printed = known.get(paper.printed, "no printed value known")
    note = f" ({paper.note})" if paper.note else ""
    return f"{paper.title or paper.key}, {paper.where}; {printed}{note}."


def footers(table: Table) -> list[tuple[str, list[str]]]:
    """Headed lists of sentences that stand under the table; empty ones are left out."""
    definition = table.definition
    labels = {row.key: row.label for row in definition.rows}
    found = [
        ("Tier", [_tier(table)]),
        ("Data", _data(table)),
        ("Seeds", [_seeds(table)]),
        ("Holes", _holes(table)),
        ("‡", guarded(table)),
        ("Stale", _stale(table)),
        ("Runs", [_runs(table)] if table.origins.runs else []),
        ("They start from", list(table.origins.parents)),
        ("Notes", list(table.notes)),
        ("Not found in the paper", _not_found(table)),
        ("Not applicable", _not_applicable(table)),
        (
            "Deviations",
            [
                *definition.deviations,
                *(f"{labels[r.key]}*: {text}" for r in definition.rows for text in r.deviations),
            ],
        ),
        ("Assumptions", list(definition.assumptions)),
        ("Margins", _margins(table)),
        ("Checkpoint", [_checkpoint(table)]),
    ]
    if any(row.reference for row in definition.rows):
        found.append(("†", ["reference row: shown for scale, not judged, in no claim"]))
    return [(heading, items) for heading, items in found if items]


def _tier(table: Table) -> str:
    if table.tier == "paper":
        return "paper"
    return f"{table.tier}; printed values are compared at tier paper only, claims at every tier"


def _data(table: Table) -> list[str]:
    groups: dict[str, list[str]] = {}
    for column in table.definition.columns:
        named = table.origins.data_of.get(column.key, {})
        shown = "; ".join(f"{name} = {' or '.join(prints)}" for name, prints in named.items())
        groups.setdefault(shown, []).append(column.label)
    listed = [f"{'; '.join(labels)}: {shown}" for shown, labels in groups.items() if shown]
    return [table.data, *listed]


def _seeds(table: Table) -> str:
    seeds = ", ".join(str(seed) for seed in table.seeds)
    count = len(table.seeds)
    if count == 1:
        return f"1 a cell ({seeds}), so no spread and no claim can be judged"
    return f"{count} a cell ({seeds}): mean ± standard deviation; cells with fewer show k/{count}"


def _not_applicable(table: Table) -> list[str]:
    """One entry for all rows that lack the same columns for the same reason."""
    columns = {column.key: column.label for column in table.definition.all_columns}
    rows: dict[tuple[str, str], list[str]] = {}
    for row in table.definition.rows:
        lacking: dict[str, list[str]] = {}
        for key, reason in row.not_applicable.items():
            lacking.setdefault(reason, []).append(columns[key])
        for reason, labels in lacking.items():
            rows.setdefault(("; ".join(labels), reason), []).append(row.label)
    axis = table.definition.axis
    found = [f"{'; '.join(names)}, {labels}: {reason}" for (labels, reason), names in rows.items()]
    return found + [
        f"{column.label}: scored at {axis} {', '.join(map(str, column.at))} only"
        for column in table.definition.columns
        if column.at
    ]


def _holes(table: Table) -> list[str]:
    labels = {row.key: row.label for row in table.definition.rows}
    columns = {column.key: column.label for column in table.definition.columns}
    listed = []
    for reason in dict.fromkeys(hole.reason for hole in table.holes):
        cells = [hole for hole in table.holes if hole.reason == reason]
        total = sum(len(hole.seeds) for hole in cells)
        named = [
            f"{labels[hole.row]} / {columns[hole.column]} ({seed_list(hole.seeds)})"
            for hole in cells
        ]
        where = "; ".join(named) if len(cells) <= 6 else f"in {len(cells)} cells"
        listed.append(f"{reason} {total}: {where}")
    return listed


def guarded(table: Table) -> list[str]:
    """One entry for each meaning of a guard: which runs it marks."""
    marked: dict[str, list[str]] = {}
    for line in table.definition.lines:
        for column in table.definition.columns:
            cell = table.cells[line.key, column.key]
            if column.guard and cell.guarded:
                where = f"{line.row.label} / {column.label} ({len(cell.guarded)} of {cell.n})"
                marked.setdefault(column.guard.says, []).append(where)
    return [
        f"runs that {says}: {'; '.join(cells) if len(cells) <= 12 else f'in {len(cells)} cells'}"
        for says, cells in marked.items()
    ]


def _stale(table: Table) -> list[str]:
    count = sum(cell.stale for cell in table.cells.values())
    cells = "1 cell has" if count == 1 else f"{count} cells have"
    return [f"{cells} runs of code that has changed since; shown, not rerun"] if count else []


def seed_list(seeds: Sequence[int]) -> str:
    """`seed 3` or `seeds 0, 3`."""
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{word} {', '.join(str(seed) for seed in seeds)}"


def _runs(table: Table) -> str:
    origins = table.origins
    hours = ", ".join(f"{v:.2g} {device.upper()} hours" for device, v in origins.hours.items())
    commits = ", ".join(origins.commits[:6]) or "unknown"
    more = f" and {len(origins.commits) - 6} more" if len(origins.commits) > 6 else ""
    word = "commit" if len(origins.commits) == 1 else "commits"
    dirty = "; + marks uncommitted changes" if any("+" in c for c in origins.commits) else ""
    runs = "1 run" if origins.runs == 1 else f"{origins.runs} runs"
    return f"{runs}, {hours}; {word} {commits}{more}{dirty}"


def _not_found(table: Table) -> list[str]:
    columns = {column.key: column.label for column in table.definition.all_columns}
    by_line: dict[str, list[str]] = {}
    for (line, column), cell in table.definition.published.items():
        if cell.word == "not found":
            by_line.setdefault(line, []).append(columns[column])
    labels = {line.key: line.row.label for line in table.definition.lines}
    listed = [f"{labels[line]}: {', '.join(names)}" for line, names in by_line.items()]
    if table.definition.paper.printed == "none":
        listed.insert(0, "every printed value of this table")
    return listed


def _margins(table: Table) -> list[str]:
    groups: dict[tuple[float, str], list[str]] = {}
    for column in table.definition.all_columns:
        margin = table.definition.margins.get(column.key)
        if margin is not None:
            groups.setdefault((margin.absolute, margin.because), []).append(column.label)
    return [f"{v:g} for {', '.join(names)}: {why}" for (v, why), names in groups.items()]


def _checkpoint(table: Table) -> str:
    checkpoint = table.definition.checkpoint
    by = f" by {checkpoint.by}" if checkpoint.by else ""
    return f"{checkpoint.use}{by}: {checkpoint.because}"
