"""Builds a table from its definition and the ledger, and writes its json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from sextant.tables.cells import Cell, run_cell, summary_cell, verdict
from sextant.tables.claims import ClaimResult, judge
from sextant.tables.definition import tier_seeds
from sextant.tables.origins import Hole, Origins, holes, mixed_data, origins, wrong_metrics
from sextant.tables.reading import TableError
from sextant.tables.schema import TIERS, Column, Line, TableDefinition
from sextant.tables.statistics import mean

Plan = Mapping[tuple[str, str], Sequence[str]]


class Fullness(NamedTuple):
    """How many of a table's planned runs are done, and how many failed."""

    done: int
    failed: int
    planned: int


@dataclass(frozen=True)
class Table:
    """A definition filled at one tier.

    `cells` go by (line, column), averages included; `planned` gives (seed, run id) pairs by
    (row, column); `records` are the ledger lines of this table's runs, by run id.
    """

    definition: TableDefinition
    tier: str
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, str], Cell]
    claims: tuple[ClaimResult, ...]
    planned: Mapping[tuple[str, str], tuple[tuple[int, str], ...]]
    records: Mapping[str, Mapping[str, Any]]
    holes: tuple[Hole, ...]
    origins: Origins
    notes: tuple[str, ...]

    @property
    def data(self) -> str:
        """What the table says its data are at this tier."""
        return self.definition.data.get(self.tier, "not stated")

    @cached_property
    def fullness(self) -> Fullness:
        """Counts each planned run once, however many cells share it."""
        planned = {run_id for runs in self.planned.values() for _, run_id in runs}
        done = sum(record["status"] == "done" for record in self.records.values())
        return Fullness(done, len(self.records) - done, len(planned))

    @cached_property
    def claim_counts(self) -> Counter[str]:
        """How many claims have each status."""
        return Counter(claim.status for claim in self.claims)

    def best(self, column: Column, at: int | None) -> frozenset[str]:
        """The lines with the best mean in a column at one point of the evaluation axis.

        Reference rows and cells with holes do not compete; lines that print the same number
        share the honour; a single competitor has none.
        """
        return self._best.get((column.key, at), frozenset())

    @cached_property
    def _best(self) -> dict[tuple[str, int | None], frozenset[str]]:
        found = {}
        points = {line.at for line in self.definition.lines}
        for column, at in product(self.definition.all_columns, points):
            means = {
                line.key: round(cell.mean, column.digits)
                for line in self.definition.lines
                if line.at == at and not line.row.reference
                if (cell := self.cells[line.key, column.key]).complete and cell.mean is not None
            }
            if len(means) > 1:
                top = max(map(column.quality, means.values()))
                best = (key for key, value in means.items() if column.quality(value) == top)
                found[column.key, at] = frozenset(best)
        return found


def build(
    definition: TableDefinition,
    tier: str,
    planned: Plan,
    records: Mapping[str, Mapping[str, Any]],
    stale: Collection[str] = frozenset(),
    seeds: Sequence[int] | None = None,
) -> Table:
    """Fills a table.

    Args:
        definition: the table file.
        tier: smoke, small, gpu or paper.
        planned: the run ids of each (row, column), in the order of `seeds`.
        records: ledger lines by run id; of those that are not planned only parents are shown.
        stale: ids of runs made by older code; shown, never left out.
        seeds: instead of those the table states for the tier.

    Raises:
        TableError: an unknown tier, a cell without a plan or with the wrong number of runs, or a
            ledger line that contradicts the plan.
    """
    if tier not in TIERS:
        raise TableError(f"tier is {tier!r}; allowed: {', '.join(TIERS)}")
    chosen = tier_seeds(definition, tier) if seeds is None else tuple(seeds)
    plan = _plan(definition, planned, chosen)
    used = {run_id for runs in plan.values() for _, run_id in runs}
    kept = {run_id: records[run_id] for run_id in sorted(used) if run_id in records}
    cells = {
        (line.key, column.key): _cell(definition, line, column, plan, kept, stale)
        for line in definition.lines
        for column in definition.columns
    }
    for line in definition.lines:
        for column in definition.summaries:
            parts = [cells[line.key, name] for name in column.over]
            usable = definition.fills(line, column)
            empty = Cell(line.key, column.key, 0, applicable=False)
            base = [cells[column.relative_to, name] for name in column.over if column.relative_to]
            made = summary_cell(line, column, parts, base) if usable else empty
            cells[line.key, column.key] = made
    cells = {
        (line.key, column.key): _judged(cells[line.key, column.key], line, definition, tier)
        for line in definition.lines
        for column in definition.all_columns
    }
    found = origins(plan, kept, records)
    return Table(
        definition=definition,
        tier=tier,
        seeds=chosen,
        cells=cells,
        claims=tuple(judge(claim, definition, cells, tier) for claim in definition.claims),
        planned=plan,
        records=kept,
        holes=holes(definition, cells),
        origins=found,
        notes=(
            *_average_notes(definition),
            *mixed_data(definition, found),
            *wrong_metrics(definition, plan, kept),
        ),
    )


def _plan(
    definition: TableDefinition, planned: Plan, seeds: Sequence[int]
) -> dict[tuple[str, str], tuple[tuple[int, str], ...]]:
    plan = {}
    for row in definition.rows:
        for column in definition.columns:
            if not definition.applies(row, column):
                continue
            runs = planned.get((row.key, column.key), ())
            if len(runs) != len(seeds):
                raise TableError(
                    f"planned has {len(runs)} runs for {row.key}/{column.key}; allowed: one for "
                    f"each of the {len(seeds)} seeds"
                )
            plan[row.key, column.key] = tuple(zip(seeds, runs, strict=True))
    return plan


def _cell(
    definition: TableDefinition,
    line: Line,
    column: Column,
    plan: Mapping[tuple[str, str], tuple[tuple[int, str], ...]],
    records: Mapping[str, Mapping[str, Any]],
    stale: Collection[str],
) -> Cell:
    if not definition.fills(line, column):
        return Cell(line.key, column.key, 0, applicable=False)
    return run_cell(line, column, dict(plan[line.row.key, column.key]), records, stale)


def _judged(cell: Cell, line: Line, definition: TableDefinition, tier: str) -> Cell:
    printed = definition.published.get((cell.line, cell.column))
    if line.row.reference or not cell.applicable:
        return replace(cell, published=printed)
    margin = definition.margins.get(cell.column)
    return replace(cell, published=printed, verdict=verdict(cell, printed, margin, tier))


def _average_notes(definition: TableDefinition) -> tuple[str, ...]:
    """Checks each printed average against the printed cells it should average."""
    notes = []
    for line in definition.lines:
        for column in definition.summaries:
            average = definition.published.get((line.key, column.key))
            parts = [definition.published.get((line.key, name)) for name in column.over]
            numbers = [part.mean for part in parts if part is not None and part.mean is not None]
            printed = average is not None and average.mean is not None
            if not printed or column.relative_to or len(numbers) < len(parts):
                continue
            # both the average and its parts were rounded before they were printed
            slack = 10.0**-column.digits
            if abs(mean(numbers) - average.mean) > slack + 1e-9:
                notes.append(
                    f"The paper prints {average.mean:.{column.digits}f} as {column.label} of "
                    f"{line.row.label}, but its printed cells average to "
                    f"{mean(numbers):.{column.digits}f}"
                )
    return tuple(notes)


def to_json(table: Table) -> str:
    """The table as json text: the same ledger gives the same bytes.

    Holds `number, id, tier, data, columns[], rows[], cells[], claims[], generated_from` and what
    a reader needs beside them; `rows[].id` and `columns[].id` are what cells refer to.
    """
    definition = table.definition
    paper = {key: value for key, value in vars(definition.paper).items() if value is not None}
    content = {
        "number": definition.number,
        "id": definition.id,
        "title": definition.title,
        "tier": table.tier,
        "data": table.data,
        "paper": paper,
        "axis": definition.axis,
        "seeds": list(table.seeds),
        "columns": [_column_json(column, table) for column in definition.all_columns],
        "rows": [_row_json(line) for line in definition.lines],
        "cells": [_cell_json(cell) for cell in table.cells.values()],
        "claims": [
            {"id": c.id, "text": c.text, "status": c.status, "figure": c.figure, "tier": c.tier}
            for c in table.claims
        ],
        "holes": [vars(hole) for hole in table.holes],
        "sources": {
            f"{line}/{column}": cell.source
            for (line, column), cell in definition.published.items()
            if cell.source
        },
        "notes": list(table.notes),
        "deviations": list(definition.deviations),
        "assumptions": list(definition.assumptions),
        "generated_from": table.origins.to_json(),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _column_json(column: Column, table: Table) -> dict[str, Any]:
    margin = table.definition.margins.get(column.key)
    return {
        "id": column.key,
        "label": column.label,
        "task": column.task,
        "metric": column.metric,
        "over": list(column.over),
        **({} if column.relative_to is None else {"relative_to": column.relative_to}),
        "at": list(column.at),
        "better": column.better,
        **({} if column.target is None else {"target": column.target}),
        "unit": column.unit,
        "digits": column.digits,
        "margin": margin.absolute if margin else None,
        "data": {
            name: list(prints) for name, prints in table.origins.data_of.get(column.key, {}).items()
        },
    }


def _row_json(line: Line) -> dict[str, Any]:
    return {
        "id": line.key,
        "row": line.row.key,
        "label": line.row.label,
        "method": line.row.method,
        "at": line.at,
        "reference": line.row.reference,
        "deviations": list(line.row.deviations),
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.line,
        "column": cell.column,
        "mean": cell.mean,
        "std": cell.std,
        "n": cell.n,
        "planned": cell.planned,
        "state": cell.state,
        "published": cell.published.as_written() if cell.published else None,
        "verdict": cell.verdict,
        "runs": list(cell.runs),
        **({"guarded": list(cell.guarded)} if cell.guarded else {}),
    }
