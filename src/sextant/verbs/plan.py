"""sextant plan N: what would run, why, and what it will cost."""

from __future__ import annotations

from collections import Counter

from sextant.paths import find_project
from sextant.runs.launch.progress import duration
from sextant.runs.plan import FAILED, Plan, make_plan
from sextant.runs.spec import RunSpec
from sextant.tables.definition import find_table
from sextant.verbs.arguments import read
from sextant.verbs.tabling import runs_of

USAGE = """usage: sextant plan N [tier=small] [seeds=0,1] [--retry]

Says which runs table N lacks, why each would run, and the expected time. Runs nothing.

  tier    smoke, small, gpu or paper
  seeds   instead of the table's own: 0,1,2 or 0-4
  --retry count failed runs among those to run

example: sextant plan 12 tier=paper"""
OPTIONS = ("tier", "seeds", "where", "workers", "logger")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], OPTIONS, ["--retry"])
    if asked is None:
        return 0
    project = find_project()
    definition = find_table(project.root, asked.words[0])
    tier = asked.tier()
    runs = runs_of(project, definition, tier, asked.seeds())
    plan = make_plan(runs.specs, project.ledger, project.runs)
    print(summary(definition.number, tier, plan))
    for line in details(plan, "--retry" in asked.flags):
        print(line)
    return 0


def summary(number: int, tier: str, plan: Plan) -> str:
    """One line: how many runs there are and in which state."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(plan.counts.items()))
    return f"table {number} at tier {tier}: {len(plan.specs)} runs: {counts}"


def details(plan: Plan, retry: bool) -> list[str]:
    """What would run, grouped by task and method, with why and the expected time."""
    waiting = plan.to_run(retry)
    if not waiting:
        failed = plan.counts[FAILED]
        return ["nothing to run" + (f" ({failed} failed; --retry tries them again)" * (failed > 0))]
    groups = Counter((spec.task, spec.method, plan.states[spec.run_id]) for spec in waiting)
    lines = [
        f"  {task} {method}: {count} x {state}" for (task, method, state), count in groups.items()
    ]
    return [f"would run {len(waiting)}: {cost(plan, waiting)}", *lines]


def cost(plan: Plan, waiting: list[RunSpec]) -> str:
    """The expected core or GPU time, from runs like these that were timed."""
    seconds = plan.expected_seconds(waiting)
    if seconds is None:
        return "no run like these was timed yet"
    unit = "GPU" if any(spec.needs_gpu for spec in waiting) else "core"
    return f"about {duration(seconds)} of {unit} time"
