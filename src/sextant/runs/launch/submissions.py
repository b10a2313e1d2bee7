"""Which job was sent for which run: results/slurm/submitted.jsonl, one line an array.

The queue knows jobs and the ledger knows runs; this file joins them, so that a second call sends
nothing that is queued already and `sextant status` can name the job of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sextant.files import disk_errors
from sextant.runs.launch.queue import QueuedJob

FILE = "submitted.jsonl"


@dataclass(frozen=True)
class Submission:
    """The job a run was last sent as.

    Args:
        job: SLURM's id for it.
        name: the job's name; ids begin again when a cluster is set up anew, names do not.
        log: what the job wrote to stderr.
    """

    job: str
    name: str
    log: Path

    def queued(self, queue: Mapping[str, QueuedJob]) -> QueuedJob | None:
        """The job as SLURM still has it, or None when it has left the queue."""
        found = queue.get(self.job)
        return found if found is not None and found.name == self.name else None


def job_name(plan: str) -> str:
    """What the jobs of a frozen plan are called."""
    return f"sextant-{plan}"


def record_submissions(folder: Path, name: str, logs: Path, jobs: Mapping[str, str]) -> None:
    """Adds one array: the job of each run id; `logs` is the folder of the jobs' output."""
    line = json.dumps({"name": name, "logs": logs.name, "jobs": dict(jobs)}) + "\n"
    with disk_errors(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a") as file:
            file.write(line)


def read_submissions(folder: Path) -> dict[str, Submission]:
    """The last job of every run that was ever sent, by run id."""
    path = folder / FILE
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        entry = json.loads(line)
        for run_id, job in entry["jobs"].items():
            log = folder / entry["logs"] / f"{job}_0_log.err"
            found[run_id] = Submission(job, entry["name"], log)
    return found
