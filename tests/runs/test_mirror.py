"""Mirrors of runs on W&B, told to a stand-in: offline, online, interrupted, failed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sextant.errors import UserError
from sextant.runs import ledger
from sextant.runs.execute import execute
from sextant.runs.mirror import LINE, WandbMirror, curves, is_sent, offline_copies
from sextant.runs.store import RunFolder
from sextant.runs.training import Interrupted, StopRequest
from sextant.verbs.wandb import sync
from tests.toy import ROOT, line_spec

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


def losses(run) -> dict[int, float]:
    return {row["trainer/global_step"] + 1: row["loss"] for row in run.history if "loss" in row}


def send(context, wandb_server) -> None:
    class Project:
        conf, runs = ROOT / "conf", context.runs

    assert sync(Project) == 0
    assert wandb_server.complaints == []


def test_offline_says_nothing_to_anybody_and_online_tells_all(mirrored, wandb_server):
    spec = line_spec(steps=8)
    offline = mirrored(OFFLINE)
    record = execute(spec, offline)
    assert wandb_server.operations == []
    (copy,) = offline_copies(folder_of(offline, spec))
    assert spec.run_id in copy.name
    assert not is_sent(copy)
    send(offline, wandb_server)
    assert is_sent(copy)
    run = wandb_server.runs[spec.run_id]
    assert run.state == "finished"
    assert json.loads(run.summary[LINE]) == record == ledger.read(offline.ledger)[spec.run_id]


def test_a_run_is_told_completely(mirrored, wandb_server):
    spec = line_spec(steps=8)
    online = mirrored(ONLINE, table="toy-1")
    record = execute(spec, online)
    assert wandb_server.complaints == []
    (run,) = wandb_server.runs.values()
    assert (run.name, run.project, run.state) == (spec.run_id, "sextant", "finished")
    assert run.fields["groupName"] == "toy-1"
    assert run.fields["jobType"] == "toy/line"
    assert run.fields["displayName"] == "toy/line toy/line seed 0"
    assert {"smoke", "seed 0"} <= set(run.fields["tags"])
    assert {key: run.config[key] for key in spec.settings} == spec.settings
    assert run.config["run"]["task"] == "toy/line"
    assert run.config["provenance"]["commit"] == record["provenance"]["commit"]
    assert run.config["provenance"]["data"] == {"line": "slope 2.0"}
    error = record["scores"]["error"]
    assert run.summary["score/error"] == error["value"]
    assert run.summary["score/error/n"] == 21
    assert run.summary["status"] == "done"
    assert run.summary["seconds"] == record["seconds"]
    expected = {step: metrics["loss"] for step, metrics in curves(folder_of(online, spec))}
    assert losses(run) == pytest.approx(expected)
    media = {name.split("/")[1]: body for name, body in run.files.items() if "media/" in name}
    table = json.loads(media["table"])
    assert table["columns"] == ["score", "value", "n", "standard_error", "better"]
    assert table["data"] == [["error", error["value"], 21, None, "lower"]]
    assert media["images"] == (folder_of(online, spec).pictures / "square.png").read_bytes()
    assert any(row.get("sample/square", {}).get("_type") == "image-file" for row in run.history)


def test_the_group_is_the_task_where_no_table_asked(mirrored, wandb_server):
    spec = line_spec(method="Solver")
    execute(spec, mirrored(ONLINE, table=None))
    assert wandb_server.runs[spec.run_id].fields["groupName"] == "toy/line"


def test_a_table_is_no_part_of_a_run_and_the_first_gives_its_group(mirrored, wandb_server):
    spec = line_spec(method="Solver")
    first = execute(spec, mirrored(ONLINE, table="toy-1"))
    assert execute(spec, mirrored(ONLINE, table="toy-2")) == first
    assert wandb_server.runs[spec.run_id].fields["groupName"] == "toy-1"


@pytest.mark.parametrize("settings", [OFFLINE, ONLINE], ids=["offline", "online"])
def test_a_resumed_run_goes_on_in_the_same_wandb_run(
    settings, mirrored, wandb_server, stops_at_step, monkeypatch
):
    spec, around = line_spec(steps=12), mirrored(settings)
    with monkeypatch.context():
        stops_at_step(6)
        with pytest.raises(Interrupted):
            execute(spec, around)
    monkeypatch.setattr("sextant.runs.training.StopRequest", StopRequest)
    if settings is ONLINE:
        assert wandb_server.runs[spec.run_id].state == "preempted"
    else:
        assert offline_copies(folder_of(around, spec)) == []
    record = execute(spec, around)
    if settings is OFFLINE:
        assert len(offline_copies(folder_of(around, spec))) == 1
        send(around, wandb_server)
    (run,) = wandb_server.runs.values()
    assert wandb_server.complaints == []
    assert (run.name, run.state) == (spec.run_id, "finished")
    assert json.loads(run.summary[LINE]) == record
    steps = [row["trainer/global_step"] + 1 for row in run.history if "loss" in row]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert losses(run) == pytest.approx(
        {step: metrics["loss"] for step, metrics in curves(folder_of(around, spec))}
    )


def test_a_failed_run_is_mirrored_as_failed(mirrored, wandb_server):
    spec = line_spec(fails="diverge")
    record = execute(spec, mirrored(ONLINE))
    run = wandb_server.runs[spec.run_id]
    assert run.state == "failed"
    assert (run.summary["status"], run.summary["reason"]) == ("failed", "diverged")
    assert json.loads(run.summary[LINE]) == record


def test_a_failure_tried_again_replaces_its_offline_copy(mirrored):
    spec, around = line_spec(fails="error"), mirrored(OFFLINE)
    execute(spec, around)
    (copy,) = offline_copies(folder_of(around, spec))
    first = copy.stat().st_mtime_ns
    execute(spec, around, again=True)
    (copy,) = offline_copies(folder_of(around, spec))
    assert copy.stat().st_mtime_ns > first


def test_a_mirror_that_breaks_leaves_the_run_done(mirrored, monkeypatch, capfd):
    def breaks(self, run, record):
        raise OSError("no such network")

    monkeypatch.setattr(WandbMirror, "_tell", breaks)
    spec, around = line_spec(method="Solver"), mirrored(OFFLINE)
    assert execute(spec, around)["status"] == "done"
    assert ledger.read(around.ledger)[spec.run_id]["status"] == "done"
    assert f"run {spec.run_id} is in the ledger but could not be mirrored" in capfd.readouterr().out


def test_online_without_a_login_is_one_sentence_before_anything_is_computed(
    mirrored, wandb_server, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY")
    around = mirrored(ONLINE)
    with pytest.raises(UserError, match="call `wandb login`, set WANDB_API_KEY"):
        execute(line_spec(), around)
    assert not ledger.read(around.ledger)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (OFFLINE | {"mode": "ofline"}, "unknown logger.mode 'ofline'; did you mean 'offline'?"),
        ({"kind": "tensorboard"}, "unknown logger kind 'tensorboard'"),
    ],
)
def test_unknown_settings_are_named(mirrored, settings, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        execute(line_spec(), mirrored(settings))
