"""`sextant wandb sync` against the stand-in, from offline copies of real runs."""

from __future__ import annotations

import json

import pytest

from sextant.cli import main
from sextant.paths import Project
from sextant.runs import ledger
from sextant.runs.context import RunContext
from sextant.runs.execute import execute
from sextant.runs.lease import lease
from sextant.runs.mirror import LINE, is_sent, offline_copies
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder, write_json
from sextant.tables.definition import find_table
from sextant.verbs.tabling import runs_of
from tests.test_watch import TRAINER
from tests.toy import ROOT, line_spec

PROJECT = Project(ROOT, ROOT / "results")
OFFLINE = {"kind": "wandb", "project": "sextant", "entity": None, "mode": "offline"}


@pytest.fixture
def around(tmp_path, monkeypatch) -> RunContext:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return RunContext(ROOT, tmp_path / "runs", tmp_path / "ledger", TRAINER, OFFLINE)


def solved(around: RunContext, *seeds: int) -> list[RunSpec]:
    specs = [line_spec(seed=seed, method="Solver") for seed in seeds]
    for spec in specs:
        execute(spec, around)
    return specs


def test_runs_are_sent_once(around, wandb_server, capfd):
    specs = solved(around, 0, 1, 2)
    assert main(["wandb", "sync"]) == 0
    assert f"sent 3 of 3 runs to {wandb_server.url}" in capfd.readouterr().out
    assert wandb_server.complaints == []
    assert set(wandb_server.runs) == {spec.run_id for spec in specs}
    lines = {name: json.loads(run.summary[LINE]) for name, run in wandb_server.runs.items()}
    assert lines == ledger.read(around.ledger)
    assert {run.state for run in wandb_server.runs.values()} == {"finished"}
    wandb_server.operations.clear()
    assert main(["wandb", "sync"]) == 0
    assert "nothing to send: 3 offline copies, all of them sent" in capfd.readouterr().out
    assert wandb_server.operations == []


def test_a_run_that_is_carried_out_is_left_alone(around, wandb_server, capfd):
    (spec,) = solved(around, 0)
    with lease(around.runs / spec.run_id / "lease", False):
        assert main(["wandb", "sync"]) == 0
    assert "nothing to send" in capfd.readouterr().out
    assert not is_sent(offline_copies(RunFolder(around.runs / spec.run_id))[0])


def test_without_a_login_one_sentence_says_what_to_do(around, wandb_server, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_API_KEY")
    solved(around, 0, 1)
    assert main(["wandb", "sync"]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"sextant: cannot send 2 runs: nobody is logged in to {wandb_server.url}"
    )
    assert "call `wandb login`, or set WANDB_API_KEY" in said
    assert wandb_server.runs == {}


def test_a_key_the_server_does_not_know_sends_nothing_and_says_so(
    around, wandb_server, monkeypatch, capfd
):
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    (spec,) = solved(around, 0)
    assert main(["wandb", "sync"]) == 1
    printed = capfd.readouterr()
    assert "sent 0 of 1 runs" in printed.out
    assert "1 are left; the same command sends them" in printed.err
    assert not is_sent(offline_copies(RunFolder(around.runs / spec.run_id))[0])


def test_a_tables_runs_are_copied_even_if_they_were_carried_out_without_wandb(
    around, wandb_server, capfd
):
    table = find_table(ROOT, 12)
    wanted = runs_of(PROJECT, table, "small").specs[:2]
    records = ledger.read(PROJECT.ledger, [spec.run_id for spec in wanted])
    for spec in wanted:
        folder = open_folder(around.runs, spec)
        write_json(folder.result, records[spec.run_id])
        folder.curves.write_text("step,metric,value\n50,squared_error,2.0\n100,squared_error,1.0\n")
    assert main(["wandb", "sync", "12"]) == 0
    assert "made copies of 2 runs of table 12" in capfd.readouterr().out
    assert wandb_server.complaints == []
    assert set(wandb_server.runs) == {spec.run_id for spec in wanted}
    run = wandb_server.runs[wanted[0].run_id]
    assert run.fields["groupName"] == table.id
    assert [row["squared_error"] for row in run.history if "squared_error" in row] == [2.0, 1.0]
    assert json.loads(run.summary[LINE]) == records[run.name]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["wandb", "snyc"], "unknown wandb command 'snyc'; did you mean 'sync'?"),
        (["wandb", "dashboard"], "N is missing"),
        (["wandb", "dashboard", "12", "tier=huge"], "unknown tier 'huge'"),
        (["ledger", "export", "wandb://a/b"], "unknown ledger command 'export'"),
        (["ledger", "import", "wandb.ai/a/b"], "must look like wandb://ENTITY/PROJECT"),
        (["ledger", "import"], "wandb://ENTITY/PROJECT is missing"),
    ],
)
def test_a_mistake_gets_one_sentence(around, capsys, arguments, sentence):
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
