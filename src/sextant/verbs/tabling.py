"""What several verbs do with a table: find it, plan its runs, fill it from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sextant.paths import Project
from sextant.runs import code, ledger
from sextant.runs.compose import Composer
from sextant.runs.launch.submissions import read_submissions
from sextant.runs.plan import FAILED, RunPlan, make_plan
from sextant.runs.spec import RunSpec
from sextant.tables.definition import TableDefinition, find_table, requests
from sextant.tables.table import Table, build
from sextant.verbs.arguments import Arguments


@dataclass(frozen=True)
class TableRuns:
    """The runs a table asks for at a tier: all of them, and the ids of each cell."""

    specs: tuple[RunSpec, ...]
    cells: Mapping[tuple[str, str], list[str]]


def plan_name(number: int, tier: str) -> str:
    """What the frozen plans of a table at a tier begin with."""
    return f"table-{number:02d}.{tier}"


def runs_of(
    project: Project,
    definition: TableDefinition,
    tier: str,
    seeds: Sequence[int] | None = None,
    composer: Composer | None = None,
) -> TableRuns:
    """Resolves every cell's settings, row by row.

    Args:
        composer: of the project's conf, where several tables are asked for: they share parents.
    """
    composer = composer or Composer(project.conf)
    specs: dict[tuple[Any, ...], RunSpec] = {}
    cells: dict[tuple[str, str], list[str]] = {}
    for request in requests(definition, tier, seeds):
        key = (request.task, request.method, request.seed)
        if key not in specs:
            specs[key] = composer.spec(request.task, request.method, tier, request.seed)
        cells.setdefault((request.row, request.column), []).append(specs[key].run_id)
    return TableRuns(tuple(specs.values()), cells)


@dataclass(frozen=True)
class Selection:
    """A table at a tier, as asked for on the command line, and what the ledger lacks of the rows
    and columns that were named."""

    project: Project
    definition: TableDefinition
    tier: str
    seeds: Sequence[int] | None
    runs: TableRuns
    plan: RunPlan
    waiting: Sequence[RunSpec]

    def table(self) -> Table:
        """The table as the ledger has it now."""
        return fill(self.project, self.definition, self.tier, self.runs, self.seeds)


def select(project: Project, asked: Arguments) -> Selection:
    """What `N tier=... seeds=... rows=... columns=... --retry` asks for.

    `--retry failed` asks for failed runs alone, those whose job ended without a word included.
    """
    definition = find_table(project.root, asked.words[0])
    tier, seeds = asked.tier(), asked.seeds()
    rows = asked.names("rows", [row.key for row in definition.rows])
    columns = asked.names("columns", [column.key for column in definition.columns])
    runs = runs_of(project, definition, tier, seeds)
    cells = [ids for (row, column), ids in runs.cells.items() if row in rows and column in columns]
    chosen = {run_id for ids in cells for run_id in ids}
    plan = make_plan(runs.specs, project.ledger, project.runs)
    missing = plan.to_run(bool(asked.retry()))
    asking = missing
    if asked.retry() == "alone":
        sent = read_submissions(project.slurm)
        asking = plan.specs  # a failed parent is asked for by children that never began
        missing = [
            spec for spec in missing if plan.states[spec.run_id] == FAILED or spec.run_id in sent
        ]
    wanted = {m.run_id for spec in asking if spec.run_id in chosen for m in spec.lineage()}
    waiting = [spec for spec in missing if spec.run_id in wanted]
    return Selection(project, definition, tier, seeds, runs, plan, waiting)


def fill(
    project: Project,
    definition: TableDefinition,
    tier: str,
    runs: TableRuns,
    seeds: Sequence[int] | None = None,
) -> Table:
    """The table as the ledger has it now."""
    wanted = {member.run_id for spec in runs.specs for member in spec.lineage()}
    records = ledger.read(project.ledger, wanted)
    stale = code.stale(records, project.ledger)
    return build(definition, tier, runs.cells, records, stale, seeds)


def tiers_with_results(
    project: Project, definition: TableDefinition, composer: Composer | None = None
) -> list[str]:
    """The tiers at which this table has any result, lowest first."""
    composer = composer or Composer(project.conf)
    found = []
    for tier in definition.seeds:
        runs = runs_of(project, definition, tier, composer=composer)
        wanted = {run_id for ids in runs.cells.values() for run_id in ids}
        if ledger.read(project.ledger, wanted):
            found.append(tier)
    return found
