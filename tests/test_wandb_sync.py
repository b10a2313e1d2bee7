"""`sextant wandb sync`, from offline copies that the client wrote of real runs."""

from __future__ import annotations

import json

import pytest

from sextant.cli import main
from sextant.files import write_json
from sextant.paths import Project
from sextant.runs import ledger
from sextant.runs.context import RunContext
from sextant.runs.execute import execute
from sextant.runs.lease import lease
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder
from sextant.tables.definition import find_table
from sextant.verbs.tabling import runs_of
from sextant.wandb.mirror import LINE, is_sent, offline_copies
from tests.recorded_wandb import SERVER
from tests.test_watch import TRAINER
from tests.toy import ROOT, line_spec

PROJECT = Project(ROOT, ROOT / "results")
OFFLINE = {"kind": "wandb", "project": "sextant", "entity": None, "mode": "offline"}


@pytest.fixture
def context(tmp_path, monkeypatch) -> RunContext:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return RunContext(ROOT, tmp_path / "runs", tmp_path / "ledger", TRAINER, OFFLINE)


def solved(context: RunContext, *seeds: int) -> list[RunSpec]:
    specs = [line_spec(seed=seed, method="Solver") for seed in seeds]
    for spec in specs:
        execute(spec, context)
    return specs


def test_runs_are_sent_once(context, wandb_client, capfd):
    specs = solved(context, 0, 1, 2)
    assert main(["wandb", "sync"]) == 0
    assert f"sent 3 of 3 runs to {SERVER}" in capfd.readouterr().out
    asked = wandb_client.asked_to_sync.read_text()
    assert asked.startswith("--project sextant ")
    assert all(spec.run_id in asked for spec in specs)
    assert main(["wandb", "sync"]) == 0
    assert "nothing to send: 3 offline copies, all of them sent" in capfd.readouterr().out
    assert wandb_client.asked_to_sync.read_text() == asked


def test_a_run_that_is_carried_out_is_left_alone(context, wandb_client, capfd):
    (spec,) = solved(context, 0)
    with lease(context.runs / spec.run_id / "lease", False):
        assert main(["wandb", "sync"]) == 0
    assert "nothing to send" in capfd.readouterr().out
    assert not is_sent(offline_copies(RunFolder(context.runs / spec.run_id))[0])


def test_without_a_login_one_sentence_says_what_to_do(context, wandb_client, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_API_KEY")
    solved(context, 0, 1)
    assert main(["wandb", "sync"]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"sextant: cannot send 2 runs: nobody is logged in to {SERVER}")
    assert "call `wandb login`, or set WANDB_API_KEY" in said
    assert not wandb_client.asked_to_sync.exists()


def test_a_key_the_server_does_not_know_sends_nothing_and_says_so(
    context, wandb_client, monkeypatch, capfd
):
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    (spec,) = solved(context, 0)
    assert main(["wandb", "sync"]) == 1
    printed = capfd.readouterr()
    assert "sent 0 of 1 runs" in printed.out
    assert "invalid credentials" in printed.err
    assert "1 are left; the same command sends them" in printed.err
    assert not is_sent(offline_copies(RunFolder(context.runs / spec.run_id))[0])


def test_a_tables_runs_are_copied_even_if_they_were_carried_out_without_wandb(
    context, wandb_client, capfd
):
    table = find_table(ROOT, 12)
    wanted = runs_of(PROJECT, table, "small").specs[:2]
    records = ledger.read(PROJECT.ledger, [spec.run_id for spec in wanted])
    for spec in wanted:
        folder = open_folder(context.runs, spec)
        write_json(folder.result, records[spec.run_id])
        folder.curves.write_text("step,metric,value\n50,squared_error,2.0\n100,squared_error,1.0\n")
    assert main(["wandb", "sync", "12"]) == 0
    assert "made copies of 2 runs of table 12" in capfd.readouterr().out
    assert [run.id for run in wandb_client.opened] == [spec.run_id for spec in wanted]
    run = wandb_client.opened[0]
    assert run.asked["group"] == table.id
    assert run.asked["mode"] == "offline"
    assert [row["squared_error"] for row in run.history if "squared_error" in row] == [2.0, 1.0]
    assert json.loads(run.summary[LINE]) == records[run.id]
    assert all(spec.run_id in wandb_client.asked_to_sync.read_text() for spec in wanted)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["wandb", "snyc"], "unknown wandb command 'snyc'; did you mean 'sync'?"),
        (["wandb", "dashboard"], "N is missing"),
        (["wandb", "dashboard", "12", "tier=huge"], "unknown tier 'huge'"),
        (["ledger", "export", "wandb://a/b"], "unknown ledger command 'export'"),
        (["ledger", "import", "wandb.ai/a/b"], "must look like wandb://ENTITY/PROJECT"),
        (["ledger", "import"], "must look like wandb://ENTITY/PROJECT, not ''"),
    ],
)
def test_a_mistake_gets_one_sentence(context, capsys, arguments, sentence):
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
