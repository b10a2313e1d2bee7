"""Runs of the toy: trained, training-free, with parents, failing in every way, interrupted."""

from __future__ import annotations

import csv
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from sextant.errors import UserError
from sextant.runs import code, ledger
from sextant.runs import execute as execution
from sextant.runs.execute import begin_anew_with_other_code, execute
from sextant.runs.store import RunFolder
from sextant.runs.training import Interrupted, StopRequest
from tests.toy import line_spec


def student(context, spec):
    return torch.load(RunFolder(context.runs / spec.run_id).student)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_leaves_scores_samples_curves_and_its_line(context):
    spec = line_spec(steps=40)
    record = execute(spec, context)
    folder = RunFolder(context.runs / spec.run_id)
    assert record["status"] == "done"
    assert 0 < record["scores"]["error"]["value"] < 4
    assert ledger.read(context.ledger)[spec.run_id] == record
    assert "tests.toy" not in code.known(context.ledger)[record["provenance"]["code"]]
    assert np.load(folder.samples)["x"].shape == (21, 1)
    assert (folder.pictures / "square.png").is_file()
    assert not folder.checkpoint.exists()
    rows = list(csv.DictReader(folder.curves.open()))
    assert [int(row["step"]) for row in rows] == list(range(2, 41, 2))
    assert record["provenance"]["data"] == {"line": "slope 2.0"}
    assert record["provenance"]["packages"]["torch"] == torch.__version__.split("+")[0]


def test_the_second_call_runs_nothing(context):
    spec = line_spec()
    first = execute(spec, context)
    before = RunFolder(context.runs / spec.run_id).student.stat().st_mtime_ns
    assert execute(spec, context) == first
    assert RunFolder(context.runs / spec.run_id).student.stat().st_mtime_ns == before
    assert len((context.ledger / "toy.jsonl").read_text().splitlines()) == 1


def test_a_line_lost_before_it_reached_the_ledger_is_added(context):
    spec = line_spec()
    record = execute(spec, context)
    (context.ledger / "toy.jsonl").unlink()
    execute(spec, context)
    assert ledger.read(context.ledger)[spec.run_id] == record


def test_a_student_without_training_is_examined_as_it_is(context):
    record = execute(line_spec(method="Solver"), context)
    assert record["scores"]["error"]["value"] == 0.0


def test_a_child_starts_from_its_parent(context):
    parent = line_spec(steps=60)
    child = line_spec(seed=5, steps=1, parents={"start": parent})
    with pytest.raises(UserError, match=f"starts from its start, run {parent.run_id}"):
        execute(child, context)
    trained = execute(parent, context)
    record = execute(child, context)
    alone = execute(line_spec(seed=5, steps=1), context)
    assert record["parents"] == [parent.run_id]
    assert record["scores"]["error"]["value"] < alone["scores"]["error"]["value"]
    assert trained["run_id"] != record["run_id"]


@pytest.mark.parametrize(
    ("fails", "reason", "message"),
    [
        ("diverge", "diverged", "the loss is nan"),
        ("memory", "oom", "no room"),
        ("error", "error", "IndexError: list index out of range"),
    ],
)
def test_a_failure_is_a_result(context, fails, reason, message):
    spec = line_spec(fails=fails)
    record = execute(spec, context)
    assert (record["status"], record["reason"]) == ("failed", reason)
    assert record["message"].startswith(message)
    assert "more lines" not in record["message"]
    assert ledger.read(context.ledger)[spec.run_id] == record


def test_a_run_over_its_limit_times_out(context):
    spec = line_spec(steps=10_000, seconds=0.01, time_limit=0.3)
    assert execute(spec, context)["reason"] == "timeout"


def test_a_failed_run_is_tried_again_only_when_asked(context, monkeypatch):
    attempts = []
    attempt = execution._attempt
    monkeypatch.setattr(execution, "_attempt", lambda *a: (attempts.append(1), attempt(*a))[1])
    spec = line_spec(fails="error")
    first = execute(spec, context)
    assert execute(spec, context) == first
    assert len(attempts) == 1
    execute(spec, context, again=True)
    assert len(attempts) == 2
    assert ledger.read(context.ledger)[spec.run_id]["status"] == "failed"


def test_settings_that_cannot_be_built_are_the_users_to_mend(context):
    with pytest.raises(UserError, match="takes: fails, at, seconds"):
        execute(line_spec(slope=3), context)
    assert not ledger.read(context.ledger)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7])
def test_stopped_and_resumed_equals_undisturbed(context, tmp_path, monkeypatch, stop_at):
    spec = line_spec(steps=8)
    undisturbed = replace(context, runs=tmp_path / "other", ledger=tmp_path / "other ledger")
    whole = execute(spec, undisturbed)

    class StopsOnce(StopRequest):
        steps = 0

        @property
        def requested(self):
            StopsOnce.steps += 1
            return StopsOnce.steps == 2 * stop_at or StopsOnce.steps == 2 * stop_at - 1

        @requested.setter
        def requested(self, value):
            pass

    monkeypatch.setattr("sextant.runs.training.StopRequest", StopsOnce)
    with pytest.raises(Interrupted):
        execute(spec, context)
    assert RunFolder(context.runs / spec.run_id).checkpoint.is_file()
    monkeypatch.undo()
    resumed = execute(spec, context)
    assert resumed["scores"] == whole["scores"]
    assert equal(student(context, spec), student(undisturbed, spec))


def _execute(spec, context, queue):
    queue.put(execute(spec, context)["seconds"])


def test_two_processes_asked_for_one_run_do_it_once(context):
    spec = line_spec(steps=30, seconds=0.05)
    processes = multiprocessing.get_context("spawn")
    queue = processes.Queue()
    asked = [processes.Process(target=_execute, args=(spec, context, queue)) for _ in range(2)]
    for process in asked:
        process.start()
    seconds = [queue.get(timeout=120) for _ in asked]
    for process in asked:
        process.join()
    assert seconds[0] == seconds[1]
    assert len((context.ledger / "toy.jsonl").read_text().splitlines()) == 1


def test_a_checkpoint_of_other_code_is_dropped(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.checkpoint.write_text("weights")
    begin_anew_with_other_code(folder, "ab")
    assert not folder.checkpoint.is_file()  # nobody knows what wrote it
    assert "the run begins anew" in capsys.readouterr().out
    folder.checkpoint.write_text("weights")
    begin_anew_with_other_code(folder, "ab")
    assert folder.checkpoint.is_file()
    begin_anew_with_other_code(folder, "cd")
    assert not folder.checkpoint.is_file()
