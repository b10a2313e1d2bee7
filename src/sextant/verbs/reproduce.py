"""sextant reproduce N: run what the table lacks, then print it beside its claims."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs.compose import Composer
from sextant.runs.launch.progress import Progress
from sextant.runs.plan import Plan, freeze, make_plan
from sextant.runs.surroundings import Surroundings
from sextant.tables.definition import TableDefinition, find_table
from sextant.verbs.arguments import Arguments, read
from sextant.verbs.figures import draw
from sextant.verbs.plan import cost, summary
from sextant.verbs.tabling import TableRuns, fill, runs_of

USAGE = """usage: sextant reproduce N [tier=small] [seeds=0,1] [where=local] [workers=2] [--retry]

Carries out the runs that table N lacks and prints the table. Calling it again runs nothing.
Ctrl-C leaves every run resumable; the same command goes on.

  tier     smoke (seconds), small (minutes on two cores), gpu, paper
  seeds    instead of the table's own: 0,1,2 or 0-4
  where    local: one process a core; slurm: array jobs, returns at once
  workers  processes side by side (default: the cores of this machine)
  logger   csv, or wandb to mirror every run (offline unless conf/logger/wandb.yaml says online)
  --retry  try failed runs again; without it a failure is a result

example: sextant reproduce 12 tier=smoke"""
OPTIONS = ("tier", "seeds", "where", "workers", "logger")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], OPTIONS, ["--retry"])
    if asked is None:
        return 0
    project = find_project()
    definition = find_table(project.root, asked.words[0])
    tier, seeds = asked.tier(), asked.seeds()
    where = asked.choice("where", ("local", "slurm"), "local")
    workers = asked.workers()
    surroundings = surroundings_of(project, asked.choice("logger", ("csv", "wandb"), "csv"))
    runs = runs_of(project, definition, tier, seeds)
    plan = make_plan(runs.specs, project.ledger, project.runs)
    waiting = plan.to_run("--retry" in asked.flags)
    code = 0
    if waiting:
        print(f"{summary(definition.number, tier, plan)}")
        print(f"running {len(waiting)}: {cost(plan, waiting)}", flush=True)
        frozen = freeze(waiting, project.plans, f"table-{definition.number:02d}.{tier}")
        if where == "slurm":
            return _submit(project, frozen, waiting, surroundings)
        code = _carry_out(
            project, definition, tier, runs, plan, waiting, frozen, surroundings, workers, asked
        )
    from sextant.tables import render

    table = fill(project, definition, tier, runs, seeds)
    if waiting and seeds is None:
        render.write_all(table, project.tables)
        for note in draw(project, definition, tier, runs):
            print(note)
    render.terminal(table)
    return code


def surroundings_of(project: Project, logger: str) -> Surroundings:
    """Folders, trainer and logger settings of this checkout."""
    composer = Composer(project.conf)
    return Surroundings(
        root=project.root,
        runs=project.runs,
        ledger=project.ledger,
        trainer=composer.setting("trainer", "default"),
        logger=composer.setting("logger", logger),
    )


def _submit(project: Project, frozen, waiting, surroundings: Surroundings) -> int:
    from sextant.runs.launch.slurm import launch

    cluster = Composer(project.conf).setting("cluster", "default")
    jobs = launch(frozen, waiting, surroundings, cluster, project.results / "slurm" / "%j")
    print(f"submitted {len(jobs)} jobs: {jobs[0]} ... {jobs[-1]}; sextant status follows them")
    return 0


def _carry_out(
    project: Project,
    definition: TableDefinition,
    tier: str,
    runs: TableRuns,
    plan: Plan,
    waiting: list,
    frozen,
    surroundings: Surroundings,
    workers: int,
    asked: Arguments,
) -> int:
    from sextant.runs.launch.local import launch

    if any(spec.needs_gpu for spec in waiting) and not _has_gpu():
        raise UserError(
            f"tier {tier} needs a GPU and there is none here; "
            "use tier=small, or where=slurm on a cluster"
        )
    rows = RowsAsTheyFill(project, definition, tier, runs, asked.seeds())
    progress = Progress(waiting, lambda spec: plan.expected_seconds([spec]), workers, rows.after)
    outcome = launch(frozen, waiting, surroundings, workers, progress, "--retry" in asked.flags)
    if outcome.interrupted:
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        raise SystemExit(130)
    for sentence in outcome.refused:
        print(f"sextant: {sentence}", file=sys.stderr)
    return 2 if outcome.refused else 0


class RowsAsTheyFill:
    """Prints a row of the table as soon as its last run has ended."""

    def __init__(self, project, definition, tier, runs: TableRuns, seeds) -> None:
        self.project, self.definition, self.tier = project, definition, tier
        self.runs, self.seeds = runs, seeds
        self.open: dict[str, set[str]] = {}
        for (row, _), ids in runs.cells.items():
            self.open.setdefault(row, set()).update(ids)

    def after(self, record: Mapping[str, Any]) -> str | None:
        ended = []
        for row, ids in self.open.items():
            if record["run_id"] in ids:
                ids.discard(record["run_id"])
                if not ids:
                    ended.append(row)
        if not ended:
            return None
        table = fill(self.project, self.definition, self.tier, self.runs, self.seeds)
        lines = []
        for line in self.definition.lines:
            if line.row.key in ended:
                cells = [
                    f"{column.label} {cell_text(table.cells[line.key, column.key], column.digits)}"
                    for column in self.definition.all_columns
                ]
                at = "" if line.at is None else f" ({self.definition.axis} {line.at})"
                lines.append(f"  {line.row.label}{at}: {', '.join(cells)}")
        return "\n".join(lines)


def cell_text(cell, digits: int) -> str:
    """A cell in a few characters: mean and spread, or its state."""
    if cell.mean is None:
        return cell.state
    spread = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
