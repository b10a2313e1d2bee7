"""The W&B report of a table: its panels, its file without a login, and the one it replaces."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import wandb
from wandb_workspaces.reports.v2.internal import ReportViewspec

from sextant.cli import main
from sextant.paths import Project
from sextant.tables.definition import find_table, find_tables
from sextant.verbs.tabling import runs_of
from sextant.wandb import dashboard
from sextant.wandb.dashboard import TaskRuns
from tests.recorded_wandb import SERVER
from tests.toy import ROOT

TABLE = find_table(ROOT, 12)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return Project(ROOT, tmp_path)


def grids(spec: dict) -> list[dict]:
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def panels(grid: dict) -> list[dict]:
    return grid["panelBankSectionConfig"]["panels"]


def values(content) -> list:
    if isinstance(content, dict):
        return values(list(content.values()))
    return [v for item in content for v in values(item)] if isinstance(content, list) else [content]


def definition_file(project: Project) -> dict:
    return json.loads((project.results / "dashboards" / "table-12.small.json").read_text())


def test_without_a_login_the_definition_is_a_file_and_says_how_to_apply_it(
    project, wandb_client, monkeypatch, capsys
):
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["wandb", "dashboard", "12"]) == 0
    printed = capsys.readouterr().out
    assert "table-12.small.json" in printed
    path = project.results / "dashboards" / "table-12.small.json"
    command = f"`.venv/bin/sextant wandb dashboard 12 from={path}`"
    assert f"call `wandb login`, then {command}, here or on another machine" in printed
    assert wandb_client.saved == []
    written = definition_file(project)
    first = (project.results / "dashboards" / "table-12.small.json").read_bytes()
    assert main(["wandb", "dashboard", "12"]) == 0
    assert (project.results / "dashboards" / "table-12.small.json").read_bytes() == first
    assert written["title"].startswith("Table 12 (otmf-1), tier small")


def test_every_task_has_its_own_runs_and_the_panels_that_compare_methods(
    project, wandb_client, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["wandb", "dashboard", "12"]) == 0
    spec = definition_file(project)["spec"]
    wanted = {}
    for run in runs_of(project, TABLE, "small").specs:
        wanted.setdefault(run.task, []).append(run.run_id)
    assert len(grids(spec)) == len(wanted) == 3
    for grid, (task, ids) in zip(grids(spec), wanted.items(), strict=True):
        (runset,) = grid["runSets"]
        assert runset["name"] == task
        assert set(ids) <= set(values(runset["filters"]))
        assert not set(values(runset["filters"])) & {
            i for t in wanted if t != task for i in wanted[t]
        }
        assert "jobType" in values(runset["grouping"])
        found = panels(grid)
        kinds = Counter(panel["viewType"] for panel in found)
        assert kinds["Bar Chart"] == 5
        assert kinds["Run History Line Plot"] == 1
        assert kinds["Scatter Plot"] == 1
        bars = [p["config"] for p in found if p["viewType"] == "Bar Chart"]
        assert [bar["metrics"] for bar in bars] == [
            ["score/w2@1"], ["score/w2@2"], ["score/w2@20"], ["seconds"], ["peak_memory_mb"],
        ]  # fmt: skip
        for config in [*bars, *(p["config"] for p in found if "Line" in p["viewType"])]:
            assert config["groupBy"] == "jobType"
            assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")
        places = {(panel["layout"]["x"], panel["layout"]["y"]) for panel in found}
        assert len(places) == len(found)
    written = values(spec)
    for claim in TABLE.claims:
        assert claim.text in written


def test_the_library_reads_its_own_definition_back(project, wandb_client, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["wandb", "dashboard", "12"]) == 0
    written = definition_file(project)
    model = ReportViewspec.model_validate({"spec": written["spec"]})
    again = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert grids(again) == grids(written["spec"])


@pytest.mark.parametrize("table", find_tables(ROOT), ids=lambda table: table.id)
def test_every_table_has_a_report(table):
    tasks = {str(column.task): TaskRuns(["0" * 12], ["loss"], ["grid"]) for column in table.columns}
    report = dashboard.build(table, "small", tasks, "lab", "sextant", "| a |")
    assert len(report.title) <= dashboard.TITLE_LIMIT
    text = dashboard.to_json(report)
    assert dashboard.to_json(dashboard.from_json(text, "a.json")) == text
    spec = json.loads(text)["spec"]
    assert len(grids(spec)) == len(tasks)
    for column in table.columns:
        bars = [
            m for grid in grids(spec) for p in panels(grid) for m in p["config"].get("metrics", [])
        ]
        assert any(str(name).startswith(f"score/{column.metric}") for name in bars)


def test_logged_in_the_report_is_made_and_then_replaced(project, wandb_client, capsys):
    for _ in range(2):
        assert main(["wandb", "dashboard", "12"]) == 0
        assert f"report: {SERVER}/lab/sextant/reports/" in capsys.readouterr().out
        saved = json.loads(dashboard.to_json(wandb_client.saved[-1]))
        assert saved == definition_file(project) | {"entity": "lab"}
    assert [report.id for report in wandb_client.saved] == ["view-1", "view-1"]


def test_the_file_that_was_written_without_a_login_is_applied(
    project, wandb_client, monkeypatch, capsys, tmp_path
):
    with monkeypatch.context() as nobody:
        nobody.delenv("WANDB_API_KEY")
        assert main(["wandb", "dashboard", "12"]) == 0
    carried = tmp_path / "elsewhere.json"
    (project.results / "dashboards" / "table-12.small.json").rename(carried)
    wandb.teardown()
    for _ in range(2):
        assert main(["wandb", "dashboard", "12", f"from={carried}"]) == 0
        assert f"report: {SERVER}/lab/sextant/reports/" in capsys.readouterr().out
    saved = json.loads(dashboard.to_json(wandb_client.saved[-1]))
    assert saved == json.loads(carried.read_text()) | {"entity": "lab"}
    assert [report.id for report in wandb_client.saved] == ["view-1", "view-1"]


@pytest.mark.parametrize(
    ("number", "text", "sentence"),
    [
        ("12", None, "there is no file"),
        ("12", "{", "is no definition of a dashboard"),
        ("12", "[]", "is no definition of a dashboard"),
        ("12", '{"entity": "", "project": "p"}', "is no definition of a dashboard: 'title'"),
        ("13", "12", "is the dashboard 'Table 12 (otmf-1), tier small"),
    ],
)
def test_a_file_that_is_not_that_tables_is_refused_in_one_sentence(
    project, wandb_client, capsys, tmp_path, number, text, sentence
):
    path = tmp_path / "given.json"
    if text == "12":
        text = dashboard.to_json(dashboard.build(TABLE, "small", {}, "", "sextant", "| a |"))
    if text is not None:
        path.write_text(text)
    assert main(["wandb", "dashboard", number, f"from={path}"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert wandb_client.saved == []


def test_a_server_that_refuses_is_one_sentence(project, wandb_client, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    assert main(["wandb", "dashboard", "12"]) == 2
    assert f"sextant: {SERVER} does not say who is logged in" in capsys.readouterr().err
