"""sextant status [N]: how full each table is and what runs now."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.runs.launch.cost import Estimator
from sextant.runs.launch.queue import QueuedJob, read_queue
from sextant.runs.launch.run_status import DONE, MISSING, QUEUED, RunStatus, StatusReader
from sextant.runs.launch.submissions import Submission, job_name, read_submissions
from sextant.runs.plan import make_plan
from sextant.runs.spec import RunSpec
from sextant.runs.watching import active
from sextant.tables.definition import TableDefinition, find_table, requests
from sextant.verbs.arguments import read
from sextant.verbs.sparing import Spared
from sextant.verbs.tabling import TableRuns, plan_name, runs_of

USAGE = """usage: sextant status [N] [tier=small]

How many runs of each table are done, running, queued, preempted, lost, failed or missing, from the
ledger, the run folders and SLURM's queue. With N, also each run that is not done: where it runs, at
which step and how long it takes yet, why it waits, or the first line of why it failed.

  preempted  stopped at a checkpoint, from which it goes on
  lost       its job left the queue without a result (--retry failed sends it again)

example: sextant status 12"""
SHOWN = 4  # tasks of runs that are in no table


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["?N"], ("tier",))
    if asked is None:
        return 0
    project = find_project()
    summaries = ledger.summaries(project.ledger)
    submitted = read_submissions(project.slurm)
    known = {(summary.task, summary.tier) for summary in summaries.values()}
    spared = Spared()
    if asked.words:
        definitions = [find_table(project.root, asked.words[0])]
    else:
        definitions = spared.tables(project)
    composer = Composer(project.conf)
    tables: list[tuple[TableDefinition, str, TableRuns]] = []
    for definition in definitions:
        tiers = (
            [asked.tier()] if "tier" in asked.options else tiers_begun(definition, known, submitted)
        )
        for tier in tiers:
            with spared.table():
                runs = runs_of(project, definition, tier, composer=composer)
                tables.append((definition, tier, runs))
    wanted = {m.run_id for _, _, runs in tables for spec in runs.specs for m in spec.lineage()}
    records = ledger.read(project.ledger, wanted)
    reader = StatusReader(project.runs, submitted, queue_of(submitted), estimates(project))
    named = set()
    for definition, tier, runs in tables:
        found = reader.of(make_plan(runs.specs, records, project.runs))
        print(f"table {definition.number} at tier {tier}: {summary(found)}")
        if asked.words:
            for line in details(found):
                print(f"  {line}")
            named |= {status.spec.run_id for status in found}
    if not (asked.words or asked.options or spared.exit_code):
        for line in in_no_table(summaries, wanted):
            print(line)
    for line in running(project, named):
        print(line)
    return spared.exit_code


def estimates(project: Project) -> Callable[[RunSpec], float | None]:
    """Seconds expected of a run; the whole ledger is read when they are first asked for."""

    @cache
    def estimator() -> Estimator:
        return Estimator(ledger.read(project.ledger).values())

    return lambda spec: estimator().expected(spec)


def in_no_table(summaries: Mapping[str, ledger.Summary], wanted: Collection[str]) -> list[str]:
    """One line of the runs in the ledger that no table asks for, by task and tier."""
    left = [one for one in summaries.values() if one.run_id not in wanted]
    if not left:
        return []
    counts = Counter(f"{one.task} at tier {one.tier}" for one in left).most_common()
    said = [f"{count} {what}" for what, count in counts[:SHOWN]]
    if len(counts) > SHOWN:
        said.append(f"{sum(count for _, count in counts[SHOWN:])} of other tasks")
    return [f"in no table: {len(left)} runs of the ledger: {', '.join(said)}"]


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
