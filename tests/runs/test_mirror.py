"""What the W&B client is told of runs: offline, online, interrupted, failed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from sextant.errors import UserError
from sextant.runs import curves, ledger
from sextant.runs.execute import execute
from sextant.runs.store import RunFolder
from sextant.runs.training import Interrupted, StopRequest
from sextant.wandb.mirror import LINE, STEP, WandbMirror, is_sent, offline_copies
from sextant.wandb.sync import send
from tests.toy import line_spec

OFFLINE = {"kind": "wandb", "project": "sextant", "entity": None, "mode": "offline"}
ONLINE = OFFLINE | {"mode": "online"}


@pytest.fixture
def mirrored(context):
    """The toy's context with these logger settings."""
    return lambda settings, **more: replace(context, logger=settings | more)


@pytest.fixture
def stops_at_step(monkeypatch):
    """Makes the next run stop after this step, as a signal would."""

    def arrange(step: int) -> None:
        class Stops(StopRequest):
            asked = 0

            @property
            def requested(self):
                Stops.asked += 1
                return Stops.asked > 2 * (step - 1)

            @requested.setter
            def requested(self, value):
                """Only the count decides."""

        monkeypatch.setattr("sextant.runs.training.StopRequest", Stops)

    return arrange


def folder_of(context, spec) -> RunFolder:
    return RunFolder(context.runs / spec.run_id)


def losses(context, spec) -> list[tuple[int, float]]:
    steps = curves.steps(folder_of(context, spec).curves)
    return [(step, metrics["loss"]) for step, metrics in steps]


def test_offline_says_nothing_to_anybody_until_it_is_sent(mirrored, wandb_client, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "somebody")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep-of-somebody")
    spec = line_spec(steps=8)
    offline = mirrored(OFFLINE)
    record = execute(spec, offline)
    (copy,) = offline_copies(folder_of(offline, spec))
    assert spec.run_id in copy.name
    assert not is_sent(copy)
    assert send(offline.runs, OFFLINE) == 0
    assert is_sent(copy)
    assert f"--project sextant {copy.parent}" in wandb_client.asked_to_sync.read_text()
    (run,) = wandb_client.opened
    assert run.real.id == spec.run_id
    assert run.exit_code == 0
    assert json.loads(run.summary[LINE]) == record == ledger.read(offline.ledger)[spec.run_id]


def test_a_run_is_told_completely(mirrored, wandb_client):
    spec = line_spec(steps=8)
    online = mirrored(ONLINE, table="toy-1")
    record = execute(spec, online)
    (run,) = wandb_client.opened
    asked = run.asked
    assert (asked["id"], asked["project"], asked["mode"]) == (spec.run_id, "sextant", "online")
    assert (asked["group"], asked["job_type"]) == ("toy-1", "toy/line")
    assert asked["name"] == "toy/line toy/line seed 0"
    assert {"smoke", "seed 0"} <= set(asked["tags"])
    assert {key: run.config[key] for key in spec.settings} == spec.settings
    assert run.config["run"]["task"] == "toy/line"
    assert run.config["provenance"]["commit"] == record["provenance"]["commit"]
    assert run.config["provenance"]["data"] == {"line": "slope 2.0"}
    error = record["scores"]["error"]
    assert run.summary["score/error"] == error["value"]
    assert run.summary["score/error/n"] == 21
    assert run.summary["status"] == "done"
    assert run.summary["seconds"] == record["seconds"]
    assert run.curve == losses(online, spec)
    assert ("*", {"step_metric": STEP, "step_sync": True}) in run.defined
    (told,) = [row for row in run.history if "scores" in row]
    assert told["scores"].columns == ["score", "value", "n", "standard_error", "better"]
    assert told["scores"].data == [["error", error["value"], 21, None, "lower"]]
    assert told["sample/square"].image.size == (4, 4)
    assert run.exit_code == 0


def test_the_group_is_the_task_where_no_table_asked(mirrored, wandb_client):
    spec = line_spec(method="Solver")
    execute(spec, mirrored(ONLINE, table=None))
    assert wandb_client.opened[0].asked["group"] == "toy/line"


def test_a_table_is_no_part_of_a_run_and_the_first_gives_its_group(mirrored, wandb_client):
    spec = line_spec(method="Solver")
    first = execute(spec, mirrored(ONLINE, table="toy-1"))
    assert execute(spec, mirrored(ONLINE, table="toy-2")) == first
    assert [run.asked["group"] for run in wandb_client.opened] == ["toy-1"]


@pytest.mark.parametrize("settings", [OFFLINE, ONLINE], ids=["offline", "online"])
def test_a_resumed_run_goes_on_in_the_same_wandb_run(
    settings, mirrored, wandb_client, stops_at_step, monkeypatch
):
    spec, context = line_spec(steps=12), mirrored(settings)
    with monkeypatch.context():
        stops_at_step(6)
        with pytest.raises(Interrupted):
            execute(spec, context)
    monkeypatch.setattr("sextant.runs.training.StopRequest", StopRequest)
    if settings is ONLINE:
        (first,) = wandb_client.opened
        assert first.preempting
        assert first.exit_code == 1
    else:
        assert wandb_client.opened == []
        assert offline_copies(folder_of(context, spec)) == []
    record = execute(spec, context)
    assert {run.id for run in wandb_client.opened} == {spec.run_id}
    assert wandb_client.opened[-1].asked["resume"] == ("allow" if settings is ONLINE else None)
    assert wandb_client.opened[-1].exit_code == 0
    assert json.loads(wandb_client.opened[-1].summary[LINE]) == record
    told = [point for run in wandb_client.opened for point in run.curve]
    assert [step for step, _ in told] == [2, 4, 6, 8, 10, 12]
    assert told == losses(context, spec)
    if settings is OFFLINE:
        assert len(offline_copies(folder_of(context, spec))) == 1


def test_a_failed_run_is_mirrored_as_failed(mirrored, wandb_client):
    spec = line_spec(fails="diverge")
    record = execute(spec, mirrored(ONLINE))
    (run,) = wandb_client.opened
    assert run.exit_code == 1
    assert (run.summary["status"], run.summary["reason"]) == ("failed", "diverged")
    assert json.loads(run.summary[LINE]) == record


def test_a_run_that_wandb_gives_another_id_is_refused_before_anything_is_computed(
    mirrored, wandb_client
):
    wandb_client.another_id = "somebody"
    context = mirrored(ONLINE)
    with pytest.raises(UserError, match="without its WANDB_RUN_ID and WANDB_SWEEP_ID"):
        execute(line_spec(), context)
    assert wandb_client.opened[0].exit_code == 1
    assert not ledger.read(context.ledger)


def test_a_failure_tried_again_replaces_its_offline_copy(mirrored, wandb_client):
    spec, context = line_spec(fails="error"), mirrored(OFFLINE)
    execute(spec, context)
    (copy,) = offline_copies(folder_of(context, spec))
    first = copy.stat().st_mtime_ns
    execute(spec, context, again=True)
    (copy,) = offline_copies(folder_of(context, spec))
    assert copy.stat().st_mtime_ns > first


def test_a_mirror_that_breaks_leaves_the_run_done(mirrored, wandb_client, monkeypatch, capfd):
    def breaks(self, run, record):
        raise OSError("no such network")

    monkeypatch.setattr(WandbMirror, "_tell", breaks)
    spec, context = line_spec(method="Solver"), mirrored(OFFLINE)
    assert execute(spec, context)["status"] == "done"
    assert ledger.read(context.ledger)[spec.run_id]["status"] == "done"
    assert f"run {spec.run_id} is in the ledger but could not be mirrored" in capfd.readouterr().out


def test_online_without_a_login_is_one_sentence_before_anything_is_computed(
    mirrored, wandb_client, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY")
    context = mirrored(ONLINE)
    with pytest.raises(UserError, match="call `wandb login`, set WANDB_API_KEY"):
        execute(line_spec(), context)
    assert not ledger.read(context.ledger)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (OFFLINE | {"mode": "ofline"}, "unknown logger.mode 'ofline'; did you mean 'offline'?"),
        ({"kind": "tensorboard"}, "unknown logger kind 'tensorboard'"),
        (OFFLINE | {"project": "a/b"}, "logger.project is refused by W&B: Invalid project name"),
    ],
)
def test_settings_that_mirror_no_run_are_refused_before_it(mirrored, settings, sentence):
    context = mirrored(settings)
    with pytest.raises(UserError, match=re.escape(sentence)):
        execute(line_spec(), context)
    assert not ledger.read(context.ledger)
