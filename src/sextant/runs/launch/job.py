"""What one element of an array does on its node: carries out a run, or leaves and comes back.

Putting a run back into the queue has one owner: this module. SLURM sends SIGUSR2 before the time is
up (and whatever `scancel --signal` names), or SIGTERM before it preempts; the run then writes its
checkpoint after the step it is in, and the job asks SLURM for its place in the queue. submitit's
own handler would requeue from inside the signal handler, in the middle of a step, and Lightning's
would call `scontrol` a second time, so neither is left in place, nor in the jobs of Hydra's own
launcher (`sextant run --multirun`). What dies without a word (a node that fails) SLURM requeues by
itself, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sextant.errors import UserError
from sextant.files import read_json, write_json
from sextant.runs.context import RunContext
from sextant.runs.launch import queue
from sextant.runs.launch.owner import owned
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder
from sextant.runs.worker import carry_out, runs_of_plan

NOTICES = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
FRUITLESS = 4
REQUEUED = 75  # the exit code of a job that left and will come back (EX_TEMPFAIL)


class RunFailed(Exception):
    """The run failed, and so does its job: the jobs that would start from it must not begin."""


def carry_out_in_job(plan: Path, index: int, context: RunContext, again: bool) -> str:
    """Carries out run number `index` of a frozen plan and returns its id.

    Raises:
        RunFailed: when the run's result is a failure (it stands in the ledger).
        UserError: when it was refused, cancelled, or stopped too often without getting anywhere.
        SystemExit: after the job was put back into the queue.
    """
    spec = runs_of_plan(plan)[index]
    folder = open_folder(context.runs, spec)
    if context.processes > 1:
        from sextant.runs.launch.distributed import Notice, share_batches, train_as_follower

        notice = Notice(NOTICES)
        heeding = notice.listening()
        context = share_batches(context, notice)
        process = int(os.environ["SLURM_PROCID"])
        if process > 0:
            with heeding:
                train_as_follower(spec, process, context)
            return spec.run_id
    else:
        heeding = stopping_on_notice()
        _keep_lightning_from_requeueing()
    job = job_id()
    before = _progress(folder)
    with owned(folder, job, on_a_node):
        try:
            with heeding:
                kind, *content = carry_out(plan, index, context, again)
        except (KeyboardInterrupt, SystemExit):
            # Outside training, or (SystemExit) where Lightning saw SIGTERM between two steps:
            # there is no fresh checkpoint, and the last one leads to the same weights.
            kind = "interrupted"
    if kind == "interrupted":
        _leave(spec, job, _fruitless_stops(folder, _progress(folder) != before))
    if kind == "refused":
        raise UserError(content[0])
    record = content[0]
    if record["status"] == "failed":
        raise RunFailed(f"{record['reason']}: {record.get('message', '')}")
    return record["run_id"]


def in_hydras_job() -> bool:
    """Whether this process is a job that Hydra's submitit launcher sent to SLURM."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


@contextmanager
def requeueing_under_hydra(spec: RunSpec, runs: Path) -> Iterator[None]:
    """Lets a run of `sextant run --multirun`, with its parents, leave for the queue in the block.

    The launching call waits for a result of the job, so one that will come back leaves none.

    Args:
        runs: the run folders.

    Raises:
        UserError: when it was stopped too often without getting anywhere.
        SystemExit: after the job was put back into the queue, or where SLURM ends it.
    """
    folder, job = open_folder(runs, spec), job_id()
    lineage = [RunFolder(runs / member.run_id) for member in spec.lineage()]
    before = [_progress(member) for member in lineage]
    _keep_lightning_from_requeueing()
    try:
        with stopping_on_notice():
            yield
    except (KeyboardInterrupt, SystemExit):
        if queue.state_of(job) != "RUNNING":
            raise SystemExit(REQUEUED) from None
        progressed = before != [_progress(member) for member in lineage]
        _leave(spec, job, _fruitless_stops(folder, progressed))


def job_id() -> str:
    """This job's id as squeue has it: 12, or 12_3."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def on_a_node(job: str) -> bool:
    """Whether SLURM says that a job runs now."""
    return queue.state_of(job) in queue.ON_A_NODE


@contextmanager
def stopping_on_notice() -> Iterator[None]:
    """Turns the first notice into Ctrl-C, which a run understands at any time: it stops after its
    step while it trains and at once while it does not. Later notices change nothing."""
    told = []

    def stop(signum: int, frame: object) -> None:
        if not told:
            told.append(signum)
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in NOTICES:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, *NOTICES):
            signal.signal(number, signal.SIG_IGN)


def _leave(spec: RunSpec, job: str, fruitless: int) -> None:
    """Goes back to the queue, unless the job was cancelled or SLURM requeues it already."""
    if queue.state_of(job) != "RUNNING":
        raise UserError(f"{spec.title} was stopped from outside; it can be resumed")
    if fruitless >= FRUITLESS:
        raise UserError(
            f"{spec.title} was stopped {fruitless} times without getting any further; give it "
            "more minutes in conf/cluster, or lower checkpoint_seconds in conf/trainer"
        )
    queue.requeue(job)
    raise SystemExit(REQUEUED)


def _progress(folder: RunFolder) -> int | None:
    """Changes whenever the run writes a checkpoint."""
    return folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.is_file() else None


def _fruitless_stops(folder: RunFolder, progressed: bool) -> int:
    """How often in a row the run was stopped before it could write a checkpoint."""
    path = folder.path / "fruitless_stops.json"
    count = 0 if progressed else 1 + (read_json(path) if path.is_file() else 0)
    write_json(path, count)
    return count


def _keep_lightning_from_requeueing() -> None:
    # Lightning takes a job of this name for an interactive one and leaves its signals alone.
    os.environ["SLURM_JOB_NAME"] = "interactive"
    warnings.filterwarnings("ignore", message="The `srun` command is available")
