"""`sextant ledger import`: a project of mirrored runs gives the ledger back, and nothing false."""

from __future__ import annotations

import json
import re

import pytest

from sextant.cli import main
from sextant.errors import UserError
from sextant.paths import Project
from sextant.runs import ledger
from sextant.runs.execute import execute
from sextant.wandb.importing import checked, import_lines, recomputed_id
from sextant.wandb.mirror import summary
from tests.toy import ROOT, line_spec

RECORDS = ledger.read(Project(ROOT, ROOT / "results").ledger)
SOME = [record for record in RECORDS.values() if record["status"] == "done"][:120]
DONE = next(record for record in SOME if not record["parents"])
CHILD = next(record for record in RECORDS.values() if record["parents"])
FAILED = DONE | {"status": "failed", "reason": "oom", "message": "no room", "scores": {}}


def line(record: dict, **changes) -> str:
    return json.dumps(record | changes)


def keep(client, record: dict, name: str | None = None) -> None:
    """What the mirror left of a run on the server."""
    client.kept[name or record["run_id"]] = summary(record)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(ROOT)
    return tmp_path / "results"


def test_every_line_of_the_ledger_would_be_believed():
    for run_id, record in RECORDS.items():
        assert checked(run_id, line(record)) == record


def test_a_ledger_is_rebuilt_completely_from_a_project(results, wandb_client, capsys):
    for record in SOME:
        keep(wandb_client, record)
    assert main(["ledger", "import", "wandb://lab/sextant"]) == 0
    assert f"{len(SOME)} runs came, 0 were here already" in capsys.readouterr().out
    assert ledger.read(results / "ledger") == {record["run_id"]: record for record in SOME}
    before = {path: path.read_bytes() for path in (results / "ledger").iterdir()}
    assert main(["ledger", "import", "wandb://lab/sextant"]) == 0
    assert f"0 runs came, {len(SOME)} were here already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (results / "ledger").iterdir()} == before


def test_a_run_mirrored_online_comes_back_as_it_was(
    results, wandb_client, tmp_path, capsys, online_context
):
    record = execute(line_spec(seed=3, method="Solver"), online_context)
    wandb_client.kept = {run.id: run.summary for run in wandb_client.opened}
    assert main(["ledger", "import", "wandb://lab/sextant"]) == 0
    assert ledger.read(results / "ledger") == {record["run_id"]: record}


@pytest.fixture
def online_context(tmp_path):
    from sextant.runs.context import RunContext
    from tests.test_watch import TRAINER

    settings = {"kind": "wandb", "project": "sextant", "entity": None, "mode": "online"}
    return RunContext(ROOT, tmp_path / "elsewhere", tmp_path / "its ledger", TRAINER, settings)


def test_what_was_refused_is_said_with_why(results, wandb_client, capsys):
    keep(wandb_client, DONE)
    forged = json.loads(line(CHILD))
    forged["spec"]["budget"]["steps"] = 1
    keep(wandb_client, forged)
    wandb_client.kept["stranger1"] = {"loss": 1.0}
    assert main(["ledger", "import", "wandb://lab/sextant"]) == 0
    printed = capsys.readouterr().out
    assert "1 runs came" in printed
    assert re.search(
        rf"refused 1: says it is run {CHILD['run_id']}, but its settings give \w+", printed
    )
    assert "refused 1: has no ledger line: it has not ended, or is no run of Sextant" in printed
    assert list(ledger.read(results / "ledger")) == [DONE["run_id"]]


def test_a_project_that_is_not_there_is_one_sentence(results, wandb_client, capsys):
    assert main(["ledger", "import", "wandb://lab/nothing"]) == 2
    assert "sextant: W&B has no project lab/nothing for you" in capsys.readouterr().err


def test_without_a_login_nothing_is_asked(results, wandb_client, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["ledger", "import", "wandb://lab/sextant"]) == 2
    assert "cannot read a project: nobody is logged in" in capsys.readouterr().err


def changed_score(**changes) -> dict:
    name, score = next(iter(DONE["scores"].items()))
    return {"scores": {name: score | changes}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run_id": "0" * 12}, "says it is run 0"),
        ({"seed": 77}, "names a seed or tier that its settings contradict"),
        ({"spec": DONE["spec"] | {"seed": 77}}, "but its settings give"),
        ({"spec": []}, "has spec that is no mapping"),
        ({"parents": ["0" * 12]}, "but its settings give no id"),
        ({"task": "../../etc/passwd"}, "is not FAMILY/NAME"),
        ({"task": "generation"}, "is not FAMILY/NAME"),
        ({"method": 5}, "is not FAMILY/NAME"),
        ({"tier": "huge"}, "names the tier 'huge'"),
        ({"status": "finished"}, "has a damaged line"),
        ({"status": "failed", "reason": "bored"}, "has a damaged line"),
        ({"scores": {}}, "is done and has no scores"),
        ({"scores": [1]}, "has scores that are no mapping"),
        (changed_score(value=float("nan")), "of value nan"),
        (changed_score(value="0.1"), "of value '0.1'"),
        (changed_score(n=0), "on n = 0 examples"),
        (changed_score(standard_error=-1.0), "standard error -1.0"),
        (changed_score(better="more"), "better = 'more'"),
    ],
)
def test_a_line_that_cannot_be_true_is_refused(changes, why, tmp_path):
    outcome = import_lines([(DONE["run_id"], line(DONE, **changes))], tmp_path)
    ((name, said),) = outcome.refused
    assert name == DONE["run_id"]
    assert why in said
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_line_that_is_no_json_is_refused():
    with pytest.raises(UserError, match="has a damaged line"):
        checked(DONE["run_id"], "{")


def test_parents_are_part_of_the_id():
    assert recomputed_id(CHILD) == CHILD["run_id"]
    swapped = CHILD | {"parents": ["0" * 12, *CHILD["parents"][1:]]}
    assert recomputed_id(swapped) != CHILD["run_id"]


@pytest.mark.parametrize(
    ("here", "there", "fate"),
    [
        (FAILED, DONE, "came"),
        (DONE, DONE, "here"),
        (FAILED, FAILED, "here"),
        (DONE, FAILED, "kept"),
        (DONE, DONE | changed_score(value=0.125), "kept"),
    ],
)
def test_a_better_local_line_stays(here, there, fate, tmp_path):
    ledger.append(tmp_path, here)
    outcome = import_lines([(DONE["run_id"], line(there))], tmp_path)
    assert [len(outcome.came), len(outcome.here), len(outcome.kept)] == [
        int(fate == name) for name in ("came", "here", "kept")
    ]
    best = there if fate == "came" else here
    assert ledger.read(tmp_path)[DONE["run_id"]] == best
