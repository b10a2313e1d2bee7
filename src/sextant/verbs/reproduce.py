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
from sextant.runs.context import RunContext
from sextant.runs.launch.cluster import read_cluster
from sextant.runs.launch.cost import Estimator
from sextant.runs.launch.progress import Progress
from sextant.runs.plan import write_plan
from sextant.tables import render
from sextant.tables.texts import line_name, line_texts
from sextant.verbs.arguments import read
from sextant.verbs.figures import draw
from sextant.verbs.plan import cost, summary
from sextant.verbs.tabling import Selection, plan_name, select
from sextant.wandb.mirror import check_logger

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
    context = context_of(project, logger, trainer)
    check_logger(context.logger)
    if where == "slurm":
        cluster = read_cluster(project.conf, asked.options.get("cluster", "default"))
    elif context.processes > 1:
        raise UserError(
            f"trainer={trainer} spreads a run over {context.processes} processes, which only "
            "where=slurm starts"
        )
    selected = select(project, asked)
    context.logger = {**context.logger, "table": selected.definition.id}
    code = 0
    if selected.waiting and where == "slurm":
        from sextant.verbs.submitting import submit

        return submit(selected, context, cluster, "--yes" in asked.flags)
    if selected.waiting:
        number, tier = selected.definition.number, selected.tier
        if any(spec.needs_gpu for spec in selected.waiting) and not _has_gpu():
            raise UserError(
                f"tier {tier} needs a GPU and there is none here; "
                "use tier=small, or where=slurm on a cluster"
            )
        print(summary(number, tier, selected.plan))
        expected = cost(project, selected.waiting)
        print(f"running {len(selected.waiting)}: {expected}", flush=True)
        plan = write_plan(selected.waiting, project.plans, plan_name(number, tier))
        code = _carry_out(selected, plan, context, workers, "--retry" in asked.flags)
    table = selected.table()
    if selected.waiting and selected.seeds is None:
        render.write_all(table, selected.project.tables)
        for note in draw(selected.project, selected.definition, selected.tier, selected.runs):
            print(note)
    render.terminal(table)
    return code


def context_of(project: Project, logger: str, trainer: str = "default") -> RunContext:
    """Folders, trainer and logger settings of this checkout."""
    composer = Composer(project.conf)
    return RunContext(
        root=project.root,
        runs=project.runs,
        ledger=project.ledger,
        trainer=composer.setting("trainer", trainer),
        logger=composer.setting("logger", logger),
    )


def _carry_out(
    selected: Selection, plan: Path, context: RunContext, workers: int, again: bool
) -> int:
    from sextant.runs.launch.local import launch

    waiting = selected.waiting
    rows = RowsAsTheyFill(selected)
    estimator = Estimator(ledger.read(selected.project.ledger).values())
    progress = Progress(waiting, estimator.expected, workers, rows.after)
    outcome = launch(plan, waiting, context, workers, progress, again)
    if outcome.interrupted:
        raise KeyboardInterrupt
    for sentence in outcome.refused:
        print(f"sextant: {sentence}", file=sys.stderr)
    return 2 if outcome.refused else 0


class RowsAsTheyFill:
    """Prints a row of the table as soon as its last run has ended."""

    def __init__(self, selected: Selection) -> None:
        self.selected = selected
        self.open: dict[str, set[str]] = {}
        for (row, _), ids in selected.runs.cells.items():
            self.open.setdefault(row, set()).update(ids)
        waiting = {spec.run_id for spec in selected.waiting}
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
        definition, table = self.selected.definition, self.selected.table()
        lines = []
        for line in definition.lines:
            if line.row.key in ended:
                cells = [f"{column.label} {text.whole}" for column, text in line_texts(table, line)]
                lines.append(f"  {line_name(line, definition.axis)}: {', '.join(cells)}")
        return "\n".join(lines)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
