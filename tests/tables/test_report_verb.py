"""sextant report on the real tables: what it reads, what it refuses, what it compares with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sextant.cli import main
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
    assert "None here: curves stay in the run folders" in page
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
