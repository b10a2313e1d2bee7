"""SLURM's queue, asked with squeue and changed with scontrol.

Accounting (sacct) is never asked: many sites have none, and what came of a run stands in its folder
and in the ledger.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from sextant.errors import UserError

# The name comes last, since a person may have put anything into it.
FORMAT = "%F|%K|%T|%N|%r|%j"
ON_A_NODE = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING")


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one element of an array, that SLURM still has.

    Args:
        job: its id: 12, or 12_3 for element 3 of array 12.
        state: SLURM's word for it: PENDING, RUNNING, COMPLETING, ...
        host: the nodes it runs on, or nothing.
        reason: why it waits, in SLURM's word.
        name: of the job.
    """

    job: str
    state: str
    host: str
    reason: str
    name: str

    @property
    def on_a_node(self) -> bool:
        return self.state in ON_A_NODE

    @property
    def why(self) -> str:
        """Why it waits, also where SLURM has given no reason yet."""
        return "SLURM has not looked at it yet" if self.reason == "None" else self.reason


def read_queue() -> dict[str, QueuedJob]:
    """Every job of this user, by id.

    Raises:
        UserError: where SLURM does not answer.
    """
    return parse(_ask("squeue", "--me", "--array", "--noheader", f"--format={FORMAT}"))


def parse(text: str) -> dict[str, QueuedJob]:
    """The jobs of squeue's lines."""
    jobs = {}
    for line in text.splitlines():
        array, element, state, host, reason, name = line.split("|", 5)
        job = f"{array}_{element}" if element.isdigit() else array
        jobs[job] = QueuedJob(job, state, host, reason, name)
    return jobs


def state_of(job: str) -> str | None:
    """SLURM's word for the state of one job, or None when it has forgotten it.

    Raises:
        UserError: where SLURM does not answer.
    """
    try:
        states = _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}").split()
    except UserError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return states[0] if states else None


def requeue(job: str) -> None:
    """Puts a running job back into the queue; SLURM ends its processes.

    Raises:
        UserError: where SLURM refuses.
    """
    _ask("scontrol", "requeue", job)


def _ask(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer") from None
    if answer.returncode:
        reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        raise UserError(f"{' '.join(command)}: {reason}")
    return answer.stdout
