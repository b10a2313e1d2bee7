"""sextant report on the real tables: what it reads, what it refuses, what it compares with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from sextant.cli import main
from sextant.paths import Project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.tables.definition import find_tables
from sextant.verbs.tabling import runs_of
from tests.test_imports import HEAVY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A folder of results with the runs of table 12 and nothing else, as in a fresh clone."""
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(ROOT)
    return keep(tmp_path / "results" / "ledger", lambda record: True).parent


def keep(folder: Path, wanted) -> Path:
    """Copies the committed runs of table 12 that are wanted into the ledger of a folder."""
    folder.mkdir(parents=True)
    with (ROOT / "results" / "ledger" / "generation.jsonl").open() as lines:
        kept = [line for line in lines if "gaussian" in line and wanted(json.loads(line))]
    (folder / "generation.jsonl").write_text("".join(kept))
    return folder


def test_a_fresh_clone_gets_a_report_without_heavy_libraries(results):
    script = (
        "import sys\nfrom sextant.cli import main\nassert main(['report']) == 0\n"
        f"loaded = {HEAVY!r} & set(sys.modules)\nassert not loaded, loaded"
    )
    called = [sys.executable, "-c", script]
    said = subprocess.run(called, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    site = results / "report"
    assert f"{site / 'index.html'}: " in said
    assert not (results / "runs").exists()
    page = (site / "tables" / "table-12.small.html").read_text()
    assert "None here: curves stay on the machine" in page
    assert "<img" not in page
    records = (results / "ledger" / "generation.jsonl").read_text().splitlines()
    assert len(list((site / "runs").glob("*.html"))) == len(records)
    assert not (site / "changes.html").exists()
    assert json.loads(records[0])["run_id"] in (site / "runs.html").read_text()


def test_another_ledger_stands_beside_this_one(results, tmp_path, capsys):
    other = keep(tmp_path / "other", lambda record: record["method"] != "flow/ot_mean_flow_exact")
    assert main(["report", f"against={other}"]) == 0
    capsys.readouterr()
    page = (results / "report" / "changes.html").read_text()
    count = sum(
        "ot_mean_flow_exact" in line for line in (results / "ledger" / "generation.jsonl").open()
    )
    assert ("cells differ" in page) == (count > 0)


def test_a_revision_stands_beside_this_ledger(results, capsys):
    assert main(["report", "against=HEAD"]) == 0
    capsys.readouterr()
    page = (results / "report" / "changes.html").read_text()
    assert "This ledger beside HEAD" in page
    # the committed ledger has tables that these results lack
    assert "it has none now" in page


def test_what_tables_and_tiers_share_is_composed_once(results, capsys, monkeypatch):
    composed, config = [], Composer.config

    def counted(self, *choices):
        composed.append(choices)
        return config(self, *choices)

    monkeypatch.setattr(Composer, "config", counted)
    for path in (ROOT / "results" / "ledger").glob("*.jsonl"):
        shutil.copy(path, results / "ledger")
    assert main(["report"]) == 0
    capsys.readouterr()
    assert len(composed) == len(set(composed)) > 100


def every_run(project: Project):
    """Ledger lines for the runs of every table, parents included, tier by tier."""
    lines = [json.loads(line) for path in project.ledger.glob("*.jsonl") for line in path.open()]
    like = {line["task"]: line for line in lines if line["status"] == "done"}
    some, seen, composer = next(iter(like.values())), set(), Composer(project.conf)
    tables = find_tables(project.root)
    asked = [(t, table) for t in ("small", "paper", "gpu") for table in tables if t in table.seeds]
    for tier, table in asked:
        specs = runs_of(project, table, tier, composer=composer).specs
        for member in (member for spec in specs for member in spec.lineage()):
            if member.run_id not in seen:
                seen.add(member.run_id)
                yield like.get(member.task, some) | {
                    "run_id": member.run_id,
                    "task": member.task,
                    "method": member.method,
                    "tier": tier,
                    "seed": member.seed,
                    "spec": member.settings,
                    "parents": [parent.run_id for parent in member.parents.values()],
                }


@pytest.mark.slow
def test_five_thousand_runs_of_the_real_tables_make_small_pages(results, capsys):
    with (results / "ledger" / "all.jsonl").open("w") as file:
        for line in islice(every_run(Project(ROOT, ROOT / "results")), 5000):
            file.write(json.dumps(line) + "\n")
    (results / "ledger" / "generation.jsonl").unlink()
    assert main(["report"]) == 0
    assert len(list((results / "report" / "runs").iterdir())) == 5000
    files = [path for path in (results / "report").rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 1_000_000


def test_runs_that_no_table_shows_are_listed_and_cost_little(results, monkeypatch, capsys):
    path, read, parsed = results / "ledger" / "generation.jsonl", [], ledger.parsed
    lines = path.read_text().splitlines()
    strangers = [json.loads(lines[0]) | {"run_id": f"{k:012x}", "seed": k} for k in range(300)]
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in strangers)
    monkeypatch.setattr(ledger, "parsed", lambda line: read.append(line) or parsed(line))
    assert main(["report"]) == 0
    shown = {json.loads(line)["run_id"] for line in lines}
    assert {path.stem for path in (results / "report" / "runs").iterdir()} == shown
    assert len(read) == len(lines)
    page = (results / "report" / "runs.html").read_text()
    assert f"{len(lines) + 300} runs, 0 failed" in page
    assert "\n299°\n" in page


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("against=no-such-revision", "neither a folder nor a git revision with a ledger"),
        ("against=src", "is a folder without a ledger"),
        ("agains=HEAD", "unknown option 'agains'; did you mean 'against'?"),
        ("12", "'12' is one argument too many"),
    ],
)
def test_a_mistake_leaves_no_report(results, capsys, argument, sentence):
    assert main(["report", argument]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (results / "report").exists()
