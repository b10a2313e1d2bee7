"""sextant status [N]: how full each table is and what runs now."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.runs.launch.cost import Estimator
from sextant.runs.launch.queue import QueuedJob, read_queue
from sextant.runs.launch.run_status import DONE, MISSING, QUEUED, RunStatus, StatusReader
from sextant.runs.launch.submissions import Submission, job_name, read_submissions
from sextant.runs.plan import make_plan
from sextant.runs.watching import active
from sextant.tables.definition import TableDefinition, find_table, requests
from sextant.verbs.arguments import read
from sextant.verbs.sparing import Spared
from sextant.verbs.tabling import plan_name, runs_of

USAGE = """usage: sextant status [N] [tier=small]

How many runs of each table are done, running, queued, preempted, lost, failed or missing, from the
ledger, the run folders and SLURM's queue. With N, also each run that is not done: where it runs, at
which step and how long it takes yet, why it waits, or the first line of why it failed.

  preempted  stopped at a checkpoint, from which it goes on
  lost       its job left the queue without a result (--retry failed sends it again)

example: sextant status 12"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["?N"], ("tier",))
    if asked is None:
        return 0
    project = find_project()
    records = ledger.read(project.ledger).values()
    submitted = read_submissions(project.slurm)
    reader = StatusReader(project.runs, submitted, queue_of(submitted), Estimator(records).expected)
    known = {(record["task"], record["tier"]) for record in records}
    spared = Spared()
    if asked.words:
        definitions = [find_table(project.root, asked.words[0])]
    else:
        definitions = spared.tables(project)
    named = set()
    composer = Composer(project.conf)
    for definition in definitions:
        tiers = (
            [asked.tier()] if "tier" in asked.options else tiers_begun(definition, known, submitted)
        )
        for tier in tiers:
            with spared.table():
                runs = runs_of(project, definition, tier, composer=composer)
                found = reader.of(make_plan(runs.specs, project.ledger, project.runs))
                print(f"table {definition.number} at tier {tier}: {summary(found)}")
                if asked.words:
                    for line in details(found):
                        print(f"  {line}")
                    named |= {status.spec.run_id for status in found}
    for line in running(project, named):
        print(line)
    return spared.exit_code


def queue_of(submitted: Mapping[str, Submission]) -> Mapping[str, QueuedJob] | None:
    """SLURM's queue where something was ever sent to it, None where it cannot be asked."""
    if not submitted:
        return {}
    try:
        return read_queue()
    except UserError as error:
        print(f"sextant: what is queued is not known here: {error}", file=sys.stderr)
        return None


def tiers_begun(
    definition: TableDefinition,
    known: Collection[tuple[str, str]],
    submitted: Mapping[str, Submission],
) -> list[str]:
    """The tiers at which something of a table has ended or was sent, else tier small."""
    sent = {sent.name for sent in submitted.values()}
    found = [
        tier
        for tier in definition.seeds
        if any((request.task, tier) in known for request in requests(definition, tier))
        or any(name.startswith(job_name(plan_name(definition.number, tier))) for name in sent)
    ]
    return found or ["small"]


def summary(found: Sequence[RunStatus]) -> str:
    """`21 runs: 3 running, 18 done`."""
    counts = Counter(status.state for status in found)
    return f"{len(found)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}"


def details(found: Sequence[RunStatus]) -> list[str]:
    """One line a run that is not done; runs that wait for the same reason share a line."""
    lines = []
    queued: dict[tuple[str, str, str], int] = {}
    for status in found:
        spec = status.spec
        if status.state == QUEUED:
            reason = status.note.partition(" waits ")[2]
            key = (spec.task, spec.method, reason)
            queued[key] = queued.get(key, 0) + 1
        elif status.state not in (DONE, MISSING):
            lines.append(f"{status.state:<9} {spec.title}: {status.note}")
    for (task, method, reason), count in queued.items():
        lines.append(f"{QUEUED:<9} {task} {method}: {count} {reason}")
    return lines


def running(project: Project, named: set[str]) -> list[str]:
    """One line for each run that is carried out now, but for those that are named above."""
    lines = []
    for run in active(project.runs):
        if run.run_id in named:
            continue
        line = f"running: {run.task} {run.method} seed {run.seed} ({run.owner})"
        if run.seen:
            metrics = ", ".join(f"{key} {value:.4g}" for key, value in run.metrics.items())
            line += f": step {run.step} of {run.steps} {metrics}"
        lines.append(line)
    return lines
