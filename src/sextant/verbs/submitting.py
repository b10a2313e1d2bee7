"""What `sextant reproduce N where=slurm` does: sends what is not queued yet, and returns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sextant.paths import Project
from sextant.runs.context import RunContext
from sextant.runs.launch.cluster import Cluster
from sextant.runs.launch.queue import read_queue
from sextant.runs.launch.slurm import check_sbatch, launch
from sextant.runs.launch.submissions import read_submissions
from sextant.runs.lease import lease
from sextant.runs.plan import DONE, FAILED, RunPlan, write_plan
from sextant.runs.spec import RunSpec
from sextant.verbs.plan import cost, summary
from sextant.verbs.tabling import Selection, plan_name


def submit(selected: Selection, context: RunContext, cluster: Cluster, sure: bool) -> int:
    """Sends the runs that are asked for and prints their jobs.

    Args:
        sure: send without asking; a call that is not on a terminal is never asked.

    Raises:
        UserError: where there is no SLURM or it does not answer.
    """
    check_sbatch()
    project, number, tier = selected.project, selected.definition.number, selected.tier
    project.slurm.mkdir(parents=True, exist_ok=True)
    # Two calls at once would both find the queue without these runs.
    with lease(project.slurm / "lease", wait=True, on_wait=lambda owner: print(f"after {owner}")):
        queued = queued_runs(project)
        sorted_out = sort_out(selected.plan, selected.waiting, queued)
        print(summary(number, tier, selected.plan))
        if sorted_out.already:
            print(f"{len(sorted_out.already)} of them are queued or running already")
        for sentence in sorted_out.refused:
            print(f"sextant: {sentence}", file=sys.stderr)
        if not sorted_out.to_send:
            print(f"nothing to submit; sextant status {number} follows what is queued")
            return 2 if sorted_out.refused else 0
        count = len(sorted_out.to_send)
        at_once = min(count, cluster.runs_at_once)
        print(f"submitting {count}, at most {at_once} at once: {cost(project, sorted_out.to_send)}")
        if not (sure or agreed()):
            print("nothing was submitted")
            return 1
        plan = write_plan(sorted_out.to_send, project.plans, plan_name(number, tier))
        failed = {id for id, state in selected.plan.states.items() if state == FAILED}
        jobs = launch(plan, sorted_out.to_send, context, cluster, project.slurm, queued, failed)
        print(f"submitted {', '.join(arrays(jobs.values()))}")
        print(f"sextant status {number} tier={tier} follows them; this shell may be closed")
    return 2 if sorted_out.refused else 0


def queued_runs(project: Project) -> dict[str, str]:
    """The jobs, by run id, that SLURM still has."""
    queue = read_queue()
    return {
        run_id: sent.job
        for run_id, sent in read_submissions(project.slurm).items()
        if sent.queued(queue) is not None
    }


@dataclass(frozen=True)
class SortedOut:
    """What becomes of the runs that are asked for: sent, queued already, or refused and why."""

    to_send: Sequence[RunSpec]
    already: Sequence[RunSpec]
    refused: Sequence[str]


def sort_out(plan: RunPlan, waiting: Sequence[RunSpec], queued: Mapping[str, Any]) -> SortedOut:
    """Sends each run once, and none whose parent will not be there."""
    to_send: list[RunSpec] = []
    already: list[RunSpec] = []
    refused: list[str] = []
    coming = set(queued)
    for spec in waiting:  # parents come first
        absent = [
            parent
            for parent in spec.parents.values()
            if parent.run_id not in coming and plan.states[parent.run_id] != DONE
        ]
        if spec.run_id in queued:
            already.append(spec)
        elif absent:
            refused.append(
                f"{spec.title} starts from {absent[0].title}, which "
                f"{plan.states[absent[0].run_id]} and is not asked for; --retry tries it again"
            )
        else:
            coming.add(spec.run_id)
            to_send.append(spec)
    return SortedOut(to_send, already, refused)


def agreed() -> bool:
    """Asks on a terminal; elsewhere nobody could answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return input("submit? [y/N] ").strip().lower() in ("y", "yes")


def arrays(jobs: Sequence[str]) -> list[str]:
    """Job ids as squeue abbreviates them: 12_[0-4], 13."""
    elements: dict[str, list[int]] = {}
    for job in jobs:
        array, _, element = job.partition("_")
        elements.setdefault(array, []).extend([int(element)] if element else [])
    return [array + _ranges(sorted(found)) for array, found in elements.items()]


def _ranges(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return f"_[{','.join('-'.join(map(str, part)) for part in parts)}]"
