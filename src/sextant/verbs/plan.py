"""sextant plan N: what would run, why, and what it will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.launch.cost import Estimator
from sextant.runs.plan import FAILED, RunPlan
from sextant.runs.spec import RunSpec
from sextant.verbs.arguments import read
from sextant.verbs.tabling import select

USAGE = """usage: sextant plan N [tier=small] [seeds=0,1] [rows=a,b] [columns=c] [--retry [failed]]

Says which runs table N lacks, why each would run, and the expected time. Runs nothing.

  tier    smoke, small, gpu or paper
  seeds   instead of the table's own: 0,1,2 or 0-4
  rows    only these rows of the table file; columns likewise
  --retry count failed runs among those to run; --retry failed counts them alone

example: sextant plan 12 tier=paper"""
OPTIONS = ("tier", "seeds", "rows", "columns", "where", "workers", "logger", "cluster", "trainer")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], OPTIONS, ["--retry"])
    if asked is None:
        return 0
    selected = select(find_project(), asked)
    print(summary(selected.definition.number, selected.tier, selected.plan))
    for line in details(selected.project, selected.plan, selected.waiting):
        print(line)
    return 0


def summary(number: int, tier: str, plan: RunPlan) -> str:
    """One line: how many runs there are and in which state."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(plan.counts.items()))
    return f"table {number} at tier {tier}: {len(plan.specs)} runs: {counts}"


def details(project: Project, plan: RunPlan, waiting: Sequence[RunSpec]) -> list[str]:
    """What would run, grouped by task and method, with why and the expected time."""
    if not waiting:
        failed = plan.counts[FAILED]
        return ["nothing to run" + (f" ({failed} failed; --retry tries them again)" * (failed > 0))]
    groups = Counter((spec.task, spec.method, plan.states[spec.run_id]) for spec in waiting)
    lines = [
        f"  {task} {method}: {count} x {state}" for (task, method, state), count in groups.items()
    ]
    return [f"would run {len(waiting)}: {cost(project, waiting)}", *lines]


def cost(project: Project, waiting: Sequence[RunSpec]) -> str:
    """The expected core or GPU time, from runs like these that were timed."""
    return str(Estimator(ledger.read(project.ledger).values()).cost(waiting))
