"""sextant reproduce N: run what the table lacks, then print it beside its claims."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.runs.launch.cluster import read_cluster
from sextant.runs.launch.cost import Estimator
from sextant.runs.launch.progress import Progress
from sextant.runs.plan import freeze
from sextant.runs.surroundings import Surroundings
from sextant.tables import render
from sextant.tables.cells import Cell
from sextant.verbs.arguments import read
from sextant.verbs.figures import draw
from sextant.verbs.plan import cost, summary
from sextant.verbs.tabling import Wish, plan_name, wish

USAGE = """usage: sextant reproduce N [tier=small] [seeds=0,1] [rows=a,b] [columns=c] [where=local]
                           [workers=2] [--retry [failed]] [--yes]

Carries out the runs that table N lacks and prints the table. Calling it again runs nothing.
Ctrl-C leaves every run resumable; the same command goes on.

  tier     smoke (seconds), small (minutes on two cores), gpu, paper
  seeds    instead of the table's own: 0,1,2 or 0-4
  rows     run only these rows of the table file, such as one's own; columns likewise
  where    local: one process a core; slurm: array jobs, returns at once with their ids
  cluster  with where=slurm, what a run asks of the queue: conf/cluster/NAME.yaml, or a site's own
           conf/local/cluster/NAME.yaml
  trainer  how a run is carried out: conf/trainer/NAME.yaml, such as ddp (where=slurm) for several
           processes a run
  workers  processes side by side (default: the cores of this machine)
  logger   csv; wandb to mirror every run offline; wandb_online while it trains
  --retry  try failed runs again; without it a failure is a result; --retry failed runs them alone
  --yes    with where=slurm on a terminal, submit without asking

examples:
  sextant reproduce 12 tier=smoke
  sextant reproduce 12 tier=paper where=slurm cluster=gpu_node
  sextant reproduce 12 where=slurm --retry failed"""
OPTIONS = ("tier", "seeds", "rows", "columns", "where", "workers", "logger", "cluster", "trainer")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], OPTIONS, ["--retry", "--yes"])
    if asked is None:
        return 0
    where = asked.choice("where", ("local", "slurm"), "local")
    logger = asked.choice("logger", ("csv", "wandb", "wandb_online"), "csv")
    workers = asked.workers()
    project = find_project()
    trainer = asked.options.get("trainer", "default")
    surroundings = surroundings_of(project, logger, trainer)
    if where == "slurm":
        cluster = read_cluster(project.conf, asked.options.get("cluster", "default"))
    elif surroundings.processes > 1:
        raise UserError(
            f"trainer={trainer} spreads a run over {surroundings.processes} processes, which only "
            "where=slurm starts"
        )
    asked_for = wish(project, asked)
    surroundings.logger = {**surroundings.logger, "table": asked_for.definition.id}
    code = 0
    if asked_for.waiting and where == "slurm":
        from sextant.verbs.submitting import submit

        return submit(asked_for, surroundings, cluster, "--yes" in asked.flags)
    if asked_for.waiting:
        number, tier = asked_for.definition.number, asked_for.tier
        if any(spec.needs_gpu for spec in asked_for.waiting) and not _has_gpu():
            raise UserError(
                f"tier {tier} needs a GPU and there is none here; "
                "use tier=small, or where=slurm on a cluster"
            )
        print(summary(number, tier, asked_for.plan))
        expected = cost(project, asked_for.waiting)
        print(f"running {len(asked_for.waiting)}: {expected}", flush=True)
        plan = freeze(asked_for.waiting, project.plans, plan_name(number, tier))
        code = _carry_out(asked_for, plan, surroundings, workers, "--retry" in asked.flags)
    table = asked_for.table()
    if asked_for.waiting and asked_for.seeds is None:
        render.write_all(table, asked_for.project.tables)
        for note in draw(asked_for.project, asked_for.definition, asked_for.tier, asked_for.runs):
            print(note)
    render.terminal(table)
    return code


def surroundings_of(project: Project, logger: str, trainer: str = "default") -> Surroundings:
    """Folders, trainer and logger settings of this checkout."""
    composer = Composer(project.conf)
    return Surroundings(
        root=project.root,
        runs=project.runs,
        ledger=project.ledger,
        trainer=composer.setting("trainer", trainer),
        logger=composer.setting("logger", logger),
    )


def _carry_out(
    asked_for: Wish, plan: Path, surroundings: Surroundings, workers: int, again: bool
) -> int:
    from sextant.runs.launch.local import launch

    waiting = asked_for.waiting
    rows = RowsAsTheyFill(asked_for)
    estimator = Estimator(ledger.read(asked_for.project.ledger).values())
    progress = Progress(waiting, estimator.expected, workers, rows.after)
    outcome = launch(plan, waiting, surroundings, workers, progress, again)
    if outcome.interrupted:
        raise KeyboardInterrupt
    for sentence in outcome.refused:
        print(f"sextant: {sentence}", file=sys.stderr)
    return 2 if outcome.refused else 0


class RowsAsTheyFill:
    """Prints a row of the table as soon as its last run has ended."""

    def __init__(self, asked_for: Wish) -> None:
        self.asked_for = asked_for
        self.open: dict[str, set[str]] = {}
        for (row, _), ids in asked_for.runs.cells.items():
            self.open.setdefault(row, set()).update(ids)
        waiting = {spec.run_id for spec in asked_for.waiting}
        self.open = {row: ids & waiting for row, ids in self.open.items() if ids & waiting}

    def after(self, record: Mapping[str, Any]) -> str | None:
        """The lines of the rows that this ledger line completes, or None."""
        for ids in self.open.values():
            ids.discard(record["run_id"])
        ended = [row for row, ids in self.open.items() if not ids]
        for row in ended:
            del self.open[row]
        if not ended:
            return None
        definition, table = self.asked_for.definition, self.asked_for.table()
        lines = []
        for line in definition.lines:
            if line.row.key in ended:
                cells = [
                    f"{column.label} {cell_text(table.cells[line.key, column.key], column.digits)}"
                    for column in definition.all_columns
                ]
                at = "" if line.at is None else f" ({definition.axis} {line.at})"
                lines.append(f"  {line.row.label}{at}: {', '.join(cells)}")
        return "\n".join(lines)


def cell_text(cell: Cell, digits: int) -> str:
    """A cell in a few characters: mean and spread, or its state."""
    if cell.mean is None:
        return cell.state
    spread = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
