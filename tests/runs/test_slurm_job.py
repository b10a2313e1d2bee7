"""What a job does on its node and what `status` makes of it, without a SLURM."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sextant.errors import UserError
from sextant.files import write_json
from sextant.runs import ledger
from sextant.runs.launch import job, queue
from sextant.runs.launch.owner import owned, owner_of
from sextant.runs.launch.queue import QueuedJob, parse
from sextant.runs.launch.run_status import StatusReader
from sextant.runs.launch.submissions import Submission
from sextant.runs.plan import make_plan, write_plan
from sextant.runs.store import RunFolder, open_folder
from tests.toy import line_spec


@pytest.fixture
def signals():
    """Signal handlers as they were, afterwards."""
    numbers = (signal.SIGINT, *job.NOTICES)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def in_a_job(monkeypatch, signals):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_JOB_NAME", "sextant-toy")


def test_an_element_carries_out_its_run_of_the_frozen_plan(in_a_job, context, tmp_path):
    specs = [line_spec(), line_spec(seed=1)]
    plan = write_plan(specs, tmp_path / "plans", "toy")
    assert job.carry_out_in_job(plan, 1, context, False) == specs[1].run_id
    assert list(ledger.read(context.ledger)) == [specs[1].run_id]
    assert owner_of(RunFolder(context.runs / specs[1].run_id)) is None


def test_a_failure_fails_the_job_and_is_tried_again_when_asked(in_a_job, context, tmp_path):
    plan = write_plan([line_spec(fails="error")], tmp_path / "plans", "toy")
    for again in (False, True):
        with pytest.raises(job.RunFailed, match="error: IndexError: list index out of range"):
            job.carry_out_in_job(plan, 0, context, again)


def interrupted(monkeypatch, state):
    """Every run is stopped before it gets anywhere, and the queue says `state` of its job."""
    requeued = []

    def stopped(*_):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(5)

    monkeypatch.setattr(job, "carry_out", stopped)
    monkeypatch.setattr(queue, "state_of", lambda job: state)
    monkeypatch.setattr(queue, "requeue", requeued.append)
    return requeued


def test_a_run_that_never_gets_anywhere_is_given_up(in_a_job, context, tmp_path, monkeypatch):
    plan = write_plan([line_spec()], tmp_path / "plans", "toy")
    requeued = interrupted(monkeypatch, "RUNNING")
    for _ in range(job.FRUITLESS - 1):
        with pytest.raises(SystemExit):
            job.carry_out_in_job(plan, 0, context, False)
    with pytest.raises(UserError, match="stopped 4 times without getting any further"):
        job.carry_out_in_job(plan, 0, context, False)
    assert requeued == ["7_3"] * (job.FRUITLESS - 1)


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", None])
def test_a_job_that_slurm_ends_is_not_put_back(in_a_job, context, tmp_path, monkeypatch, state):
    plan = write_plan([line_spec()], tmp_path / "plans", "toy")
    requeued = interrupted(monkeypatch, state)
    with pytest.raises(UserError, match="stopped from outside"):
        job.carry_out_in_job(plan, 0, context, False)
    assert requeued == []


def stopped_for_hydra(spec, context, progress=lambda: None):
    with job.requeueing_under_hydra(spec, context.runs):
        progress()
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(5)


def test_a_run_of_hydras_launcher_goes_back_to_the_queue_while_it_or_its_parent_gets_on(
    in_a_job, context, monkeypatch
):
    parent = line_spec()
    spec = line_spec(seed=1, parents={"start": parent})
    checkpoint = open_folder(context.runs, parent).checkpoint
    requeued = interrupted(monkeypatch, "RUNNING")
    for _ in range(2 * job.FRUITLESS):
        with pytest.raises(SystemExit) as left:
            stopped_for_hydra(spec, context, checkpoint.touch)
        assert left.value.code == job.REQUEUED
    assert requeued == ["7_3"] * 2 * job.FRUITLESS
    assert os.environ["SLURM_JOB_NAME"] == "interactive"  # which Lightning does not requeue
    for _ in range(job.FRUITLESS - 1):
        with pytest.raises(SystemExit):
            stopped_for_hydra(spec, context)
    with pytest.raises(UserError, match="stopped 4 times without getting any further"):
        stopped_for_hydra(spec, context)


def test_hydras_job_that_slurm_ends_leaves_no_result_and_is_not_put_back(
    in_a_job, context, monkeypatch
):
    requeued = interrupted(monkeypatch, "COMPLETING")
    with pytest.raises(SystemExit):
        stopped_for_hydra(line_spec(), context)
    assert requeued == []


def test_the_first_notice_alone_counts(signals):
    def told_to_leave():
        with job.stopping_on_notice():
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        told_to_leave()
    os.kill(os.getpid(), signal.SIGTERM)  # while the job asks for its place in the queue


@pytest.fixture
def folder(context) -> RunFolder:
    return open_folder(context.runs, line_spec())


def test_a_second_job_leaves_while_the_first_runs(folder):
    with owned(folder, "7_3", runs=lambda job: True):
        assert owner_of(folder)["job"] == "7_3"
        with pytest.raises(UserError, match=r"job 7_3 on .* works on this run"):  # noqa: SIM117
            with owned(folder, "9", runs=lambda job: job == "7_3"):
                pass
        assert owner_of(folder)["job"] == "7_3"
    assert owner_of(folder) is None


@pytest.mark.parametrize("job_id", ["7_3", "9"])
def test_what_a_killed_job_left_is_taken_over(folder, job_id):
    write_json(folder.path / "owner.json", {"job": "7_3", "host": "a", "since": 0, "step": 0})
    with owned(folder, job_id, runs=lambda job: False):
        assert owner_of(folder)["job"] == job_id
    assert [path.name for path in folder.path.iterdir()] == ["spec.json"]


def test_squeue_is_read_whatever_a_job_is_called():
    found = parse("7|3|RUNNING|node1|None|toy\n9|N/A|PENDING||Resources|a|b c\n")
    assert found["7_3"] == QueuedJob("7_3", "RUNNING", "node1", "None", "toy")
    assert found["9"] == QueuedJob("9", "PENDING", "", "Resources", "a|b c")


def status(context, jobs=(), sent=True, queue_answers=True, spec=None):
    spec = spec or line_spec()
    submission = Submission("7_3", "toy", context.root / "no log")
    reader = StatusReader(
        context.runs,
        {spec.run_id: submission} if sent else {},
        {job.job: job for job in jobs} if queue_answers else None,
        lambda spec: 100.0,
    )
    (found,) = reader.of(make_plan([spec], context.ledger, context.runs))
    return found.state, found.note


PENDING = QueuedJob("7_3", "PENDING", "", "Priority", "toy")
RUNNING = QueuedJob("7_3", "RUNNING", "node4", "None", "toy")


def test_a_run_is_queued_running_preempted_lost_or_missing(context, folder):
    assert status(context, sent=False) == ("missing", "")
    assert status(context, [PENDING]) == ("queued", "job 7_3 waits (Priority)")
    assert status(context, [RUNNING]) == ("running", "job 7_3 on node4: starting")
    fresh = QueuedJob("7_3", "PENDING", "", "None", "toy")
    assert status(context, [fresh])[1] == "job 7_3 waits (SLURM has not looked at it yet)"
    namesake = QueuedJob("7_3", "RUNNING", "node4", "None", "another")
    assert status(context, [namesake])[0] == "lost"
    assert status(context)[1].startswith("job 7_3 ended without a result: it left no word")
    assert status(context, queue_answers=False) == ("missing", "")

    now = time.time()
    state = {"step": 40, "steps": 200, "metrics": {"loss": 0.3125}, "time": now}
    write_json(folder.state, state)
    folder.checkpoint.touch()
    assert status(context, [PENDING]) == (
        "preempted", "at step 40 of 200; job 7_3 waits (Priority)"
    )  # fmt: skip
    assert status(context, sent=False)[0] == "preempted"

    owner = {"job": "7_3", "host": "node4", "since": now - 10, "step": 20}
    write_json(folder.path / "owner.json", owner)
    state, note = status(context, [RUNNING])
    # 20 steps in 10 seconds, 160 to go
    assert (state, note) == (
        "running", "job 7_3 on node4: step 40 of 200, loss 0.3125, about 80 s left"
    )  # fmt: skip
    write_json(folder.path / "owner.json", owner | {"since": now + 1})
    assert status(context, [RUNNING])[1] == "job 7_3 on node4: preparing"


def test_a_failed_run_says_the_first_line_of_why(context, in_a_job, tmp_path):
    spec = line_spec(fails="error")
    plan = write_plan([spec], tmp_path / "plans", "toy")
    with pytest.raises(job.RunFailed):
        job.carry_out_in_job(plan, 0, context, False)
    expected = ("failed", "error: IndexError: list index out of range")
    assert status(context, spec=spec) == expected
    assert status(context, [PENDING], spec=spec)[0] == "queued"  # it is tried again
