"""Plans are frozen, parents come first, dead processes are resumed, refusals are said."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sextant.errors import UserError
from sextant.runs import ledger
from sextant.runs.execute import execute
from sextant.runs.launch import local
from sextant.runs.launch.progress import Progress
from sextant.runs.plan import make_plan, read_plan, write_plan
from sextant.runs.store import RunFolder
from tests.toy import line_spec


def planned(context, *specs):
    return make_plan(specs, context.ledger, context.runs)


def launched(context, tmp_path, specs, workers=2):
    plan = write_plan(specs, tmp_path / "plans", "toy")
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(specs, lambda spec: None, workers, console=console)
    outcome = local.launch(plan, specs, context, workers, progress)
    return outcome, console.file.getvalue()


def test_a_plan_wants_parents_first_and_drops_what_is_done(context):
    parent = line_spec()
    children = [line_spec(seed=seed, parents={"start": parent}) for seed in (1, 2)]
    plan = planned(context, *children)
    assert [spec.run_id for spec in plan.to_run()] == [spec.run_id for spec in (parent, *children)]
    execute(parent, context)
    execute(children[0], context)
    assert planned(context, *children).to_run() == [children[1]]


def test_a_finished_parent_without_weights_is_made_again(context):
    parent = line_spec()
    child = line_spec(seed=1, parents={"start": parent})
    execute(parent, context)
    RunFolder(context.runs / parent.run_id).student.unlink()
    assert planned(context, child).to_run() == [parent, child]
    execute(parent, context)
    assert planned(context, child).to_run() == [child]
    assert len((context.ledger / "toy.jsonl").read_text().splitlines()) == 1


def test_failures_run_again_only_on_retry(context):
    spec = line_spec(fails="error")
    execute(spec, context)
    plan = planned(context, spec)
    assert plan.to_run() == []
    assert plan.to_run(retry=True) == [spec]


def test_an_edited_plan_is_refused(tmp_path):
    path = write_plan([line_spec()], tmp_path, "toy")
    content = json.loads(path.read_text())
    content["runs"][0]["settings"]["seed"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="edited"):
        read_plan(path)
    with pytest.raises(UserError, match="no frozen plan"):
        read_plan(tmp_path / "none.json")
    for damage in ('{"runs": [3]}', "[]", '{"runs": [{"task": "toy/line"}]}', '{"runs": nul'):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"no frozen plan|is damaged"):
            read_plan(path)


def test_the_launcher_carries_out_a_plan(context, tmp_path):
    parent = line_spec()
    broken = line_spec(seed=9, fails="error")
    orphan = line_spec(seed=3, parents={"start": broken})
    dying = line_spec(seed=4, fails="die")
    child = line_spec(seed=1, parents={"start": parent})
    specs = [parent, broken, dying, child, orphan]
    outcome, printed = launched(context, tmp_path, specs)
    records = ledger.read(context.ledger)
    assert records[parent.run_id]["status"] == records[child.run_id]["status"] == "done"
    assert records[broken.run_id]["reason"] == "error"
    assert records[dying.run_id]["reason"] == "oom"
    assert "died 2 times" in records[dying.run_id]["message"]
    assert orphan.run_id not in records
    assert len(outcome.refused) == 1
    assert "did not finish" in outcome.refused[0]
    assert "[1/5] toy/line toy/line seed" in printed
    assert "its process died (-9), resuming" in printed
    log = RunFolder(context.runs / broken.run_id).log.read_text()
    assert "IndexError" in log
