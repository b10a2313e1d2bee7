"""The report's pages: what they say, what they link to, how large they grow."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from jinja2 import UndefinedError

from sextant.runs.curves import by_metric
from sextant.tables.claims import differences
from sextant.tables.register import read_register
from sextant.tables.report.charts import Frame, scale, thin
from sextant.tables.report.contents import Before
from sextant.tables.report.site import write_site
from sextant.tables.statistics import mean
from sextant.tables.templating import render, script
from tests.reporting import (
    ROOT,
    arena_ledger,
    filled,
    grey_picture,
    leave_files,
    plane_ledger,
    report_of,
)
from tests.tables.conftest import ARENA, PLANE, Ledger, define

MEGABYTE = 1_000_000


class Page(HTMLParser):
    """The elements and the text of a page; `links` are the files it points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def links(self) -> list[str]:
        found = [a.get("href") or a.get("src") for _, a in self.elements]
        return [unquote(f.split("#")[0]) for f in found if f and f[0] != "#" and f != "data:,"]

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def read(path: Path) -> Page:
    return Page(path.read_text())


def views(path: Path) -> dict[str, Any]:
    """What a script hands over: a row's views by column, or the pairs."""
    match = re.fullmatch(r"sextant\.receive\(\"\w+\",(.*)\);\n", path.read_text(), re.DOTALL)
    return json.loads(match[1])


@pytest.fixture
def site(tmp_path) -> Path:
    leave_files(tmp_path, "ot_exact", pictures=False)
    ledgers = [arena_ledger(), plane_ledger()]
    write_site(report_of(ledgers, tmp_path), tmp_path / "report")
    return tmp_path / "report"


def test_the_front_page_shows_every_registered_table(site):
    page = read(site / "index.html")
    rows = [a for a in page.of("tr") if "data-tier" in a]
    registered = len(read_register(ROOT).entries)
    assert len(rows) == registered
    assert [a["data-tier"] for a in rows].count("small") == 2
    assert page.text.count("not built yet") == registered - 2
    # of the fifteen runs of table 1 one failed and two were never carried out
    assert "12 of 15, 1 failed" in page.text
    assert "30 of 30" in page.text
    assert "✓ 2 holds" in page.text
    assert "CovarNav" in page.text


def test_a_table_stands_beside_the_paper_with_its_claims(site):
    page = read(site / "tables" / "table-01.small.html")
    assert "LUNA has the best average" in page.text
    assert "LUNA against softmax on Average" in page.text
    heads = [a for a in page.of("th") if a.get("scope") == "colgroup"]
    assert len(heads) == 3
    assert "38.8 ± 0.2 (3/3) 37.1 ± 0.3 (n=3)" in page.text
    assert "36.2 ± 0.4 (2/3)! FAIL" in page.text
    assert [a for a in page.of("td") if a.get("title") == "runs out of positions"]
    assert page.of("dialog")[0]["aria-labelledby"] == "cell-name"
    assert {a["aria-sort"] for a in page.of("th") if "aria-sort" in a} == {"none"}


def test_a_verdict_at_tier_paper_is_word_and_symbol(tmp_path):
    write_site(report_of([arena_ledger("small"), arena_ledger("paper")], tmp_path), tmp_path / "r")
    page = read(tmp_path / "r" / "tables" / "table-01.paper.html")
    assert "? inconclusive" in page.text
    assert [a["href"] for a in page.of("a") if a.get("href", "").startswith("table-01")] == [
        "table-01.small.html",
        "table-01.paper.html",
    ]
    assert "reproduced" not in read(tmp_path / "r" / "tables" / "table-01.small.html").text


def test_a_cell_opens_its_runs(site):
    view = Page(views(site / "tables" / "table-12.small" / "ot_exact.js")["moons"])
    for said in ("w2@1", "w2@2", "0.35", "36 s", "0123456789", "moons law", "f00d", "torch 2.14.0"):
        assert said in view.text
    assert "sextant run task=generation/moons method=flow/ot_exact tier=small seed=4" in view.text
    assert "Settings of seeds 0, 1, 2, 3, 4" in view.text
    assert "name: moons" in view.text
    holes = Page(views(site / "tables" / "table-01.small" / "linear.js")["listops"])
    assert holes.text.count("missing: nobody has run it") == 2
    failed = Page(views(site / "tables" / "table-01.small" / "softmax.js")["pathx"])
    assert "failed (oom): it was oom" in failed.text
    luna = Page(views(site / "tables" / "table-01.small" / "luna.js")["listops"])
    assert "The paper: 37.1 ± 0.3 (n=3) (source: appendix)." in luna.text
    assert ".venv/bin/sextant run task=lra/listops" in luna.text
    average = Page(views(site / "tables" / "table-01.small" / "luna.js")["avg"])
    assert "The average over ListOps, Path-X" in average.text


def test_a_guarded_cell_is_explained_and_lacks_nothing(tmp_path):
    guard = {"metric": "learned", "says": "learned nothing"}
    made = arena_ledger()
    definition = define(ARENA, lambda content: content["columns"]["listops"].update(guard=guard))
    for run_id, record in made.records.items():
        learned = 0.0 if run_id.startswith("luna/listops") else 1.0
        record["scores"]["learned"] = {"value": learned, "better": "higher", "n": 1}
    made.definition = definition
    write_site(report_of([made], tmp_path), tmp_path / "r")
    page = read(tmp_path / "r" / "tables" / "table-01.small.html")
    assert "‡ has runs that learned nothing: LUNA / ListOps (3 of 3)." in page.text
    text = (tmp_path / "r" / "tables" / "table-01.small.html").read_text()
    assert '<span class="mark">(3/3) ‡</span>' in text
    assert '<span class="mark lack">(2/3)!</span>' in text


def test_pages_are_nested_as_html_has_it(site):
    for name in ("index.html", "tables/table-12.small.html", "runs/ot_exact-moons-0.html"):
        page = read(site / name)
        levels = [int(element[1]) for element, _ in page.elements if element[:1] == "h"
                  and element[1:].isdigit()]  # fmt: skip
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        terms = [element for element, _ in page.elements if element in ("dt", "dd")]
        assert terms[::2] == ["dt"] * (len(terms) // 2)
        assert terms[1::2] == ["dd"] * (len(terms) // 2)


def test_every_link_leads_somewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 2 + 2 + 13 + 30
    for path in pages:
        for link in read(path).links:
            assert (path.parent / link).is_file(), f"{path.name} links to {link}"
    for path in site.glob("tables/*/*.js"):
        if path.name != "pairs.js":
            for view in views(path).values():
                for link in Page(view).links:
                    assert (site / "tables" / link).is_file(), f"{path.name} links to {link}"


def test_curves_pictures_and_figures_are_shown_or_said_to_be_missing(tmp_path):
    made = plane_ledger()
    report = report_of([made], tmp_path)
    bare = write_site(report, tmp_path / "bare")
    page = read(tmp_path / "bare" / "tables" / "table-12.small.html")
    assert bare == 2 + 1 + 30
    assert "None here: curves stay on the machine" in page.text
    assert "sextant figures 12 tier=small" in page.text
    assert not page.of("img")
    leave_files(tmp_path, "ot_exact/moons/0", pictures=True)
    leave_files(tmp_path, "mean_flow/moons/0", pictures=True)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "t-samples.small.png").write_bytes(grey_picture(9))
    (tmp_path / "figures" / f"{made.definition.id}-samples.small.png").write_bytes(grey_picture(9))
    write_site(report_of([made], tmp_path), tmp_path / "full")
    page = read(tmp_path / "full" / "tables" / "table-12.small.html")
    shown = [a["src"] for a in page.of("img")]
    assert shown[0] == "../pictures/figures/otmf-1-samples.small.png"
    assert len(shown) == 3
    assert "One-step samples" in page.text
    assert all((tmp_path / "full" / "tables" / unquote(source)).is_file() for source in shown)
    assert len(page.of("polyline")) == 2
    assert "step 1 to 199, value 0.05025 to 10, logarithmic" in page.text
    run = read(tmp_path / "full" / "runs" / "ot_exact-moons-0.html")
    assert (len(run.of("img")), len(run.of("polyline"))) == (1, 1)


def test_the_page_of_a_run_says_everything_about_it(tmp_path):
    made = plane_ledger()
    child, parent = made.records["ot_exact/moons/1"], made.records["floor/moons/0"]
    child["parents"] = [parent["run_id"], "deadbeef0000"]
    alone = {**child, "run_id": "0123456789ab", "parents": []}
    report = report_of([made], tmp_path, records={**made.records, "0123456789ab": alone})
    write_site(report, tmp_path / "r")
    page = read(tmp_path / "r" / "runs" / "ot_exact-moons-1.html")
    for said in (
        "generation/moons by flow/ot_exact, seed 1",
        "Table 12, tier small: exact OT, N(0,I) to two moons",
        "w2@1 ↓ 0.36 0.01 2000",
        "0123456789abcdef",
        "sextant run task=generation/moons method=flow/ot_exact tier=small seed=1",
        "generation/moons by reference/second_draw, seed 0",
        "deadbeef0000 (not in this ledger)",
        "name: moons",
    ):
        assert said in page.text
    assert "../tables/table-12.small.html#ot_exact/moons" in [a.get("href") for a in page.of("a")]
    assert "Start from it" in read(tmp_path / "r" / "runs" / "floor-moons-0.html").text
    assert "No table asks for a run" in read(tmp_path / "r" / "runs" / "0123456789ab.html").text
    assert "1°" in read(tmp_path / "r" / "runs.html").text


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_hostile_names_stay_text(tmp_path):
    def change(content):
        content["rows"]["ot_exact"]["label"] = HOSTILE
        content["rows"]["ot_exact"]["method"] = HOSTILE

    made = plane_ledger(definition=define(PLANE, change))
    for record in made.records.values():
        record["task"] = HOSTILE
        record["provenance"] |= {"commit": HOSTILE, "data": {HOSTILE: HOSTILE}}
        record["spec"] = {HOSTILE: HOSTILE}
    made.failed("ot_exact", "moons", 1, "error")
    made.records["ot_exact/moons/1"]["message"] = HOSTILE
    write_site(report_of([made], tmp_path, Before(HOSTILE, {})), tmp_path / "r")
    for path in (tmp_path / "r").rglob("*.html"):
        page = read(path)
        assert [a.get("src", "")[-9:] for a in page.of("script")] == ["script.js"], path
        assert not page.of("img")
        assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert HOSTILE in read(tmp_path / "r" / "tables" / "table-12.small.html").text
    for path in (tmp_path / "r").glob("tables/*/*.js"):
        assert "<" not in path.read_text(), path
    view = Page(views(tmp_path / "r" / "tables" / "table-12.small" / "ot_exact.js")["moons"])
    assert not view.of("script")
    assert not view.of("img")
    assert HOSTILE in view.text


def test_an_id_that_is_a_path_stays_in_the_folder(tmp_path):
    made = plane_ledger()
    stray = {**made.records["floor/moons/0"], "run_id": "../../../up"}
    report = report_of([made], tmp_path, records={**made.records, "../../../up": stray})
    write_site(report, tmp_path / "a" / "b" / "r")
    assert not list(tmp_path.glob("**/up.html"))
    assert (tmp_path / "a" / "b" / "r" / "runs" / "---------up.html").is_file()


def test_changes_say_which_cells_differ_and_by_how_much(tmp_path):
    then, now = plane_ledger(), plane_ledger()
    for seed in range(5):
        now.done("ot_exact", "moons", seed, {"w2@1": 0.75 + 0.011 * seed, "w2@2": 0.9})
    del then.records["floor/gaussians/2"]
    before = Before("HEAD~3", {12: [filled(then)]})
    write_site(report_of([now, arena_ledger()], tmp_path, before), tmp_path / "r")
    page = read(tmp_path / "r" / "changes.html")
    assert "3 of 10 cells differ" in page.text
    assert "0.370 ± 0.016 (5/5) 0.772 ± 0.017 (5/5) +0.4020 worse" in page.text
    assert "(4/5)! 0.120 ± 0.016 (5/5)" in page.text
    assert "✓ holds → ✗ fails At one step OT beats independent pairing." in page.text
    assert "It had no results in HEAD~3." in page.text
    assert "cells changed" in read(tmp_path / "r" / "index.html").text
    same = Before("HEAD", {12: [filled(now)]})
    write_site(report_of([now], tmp_path, same), tmp_path / "r")
    assert "Nothing differs." in read(tmp_path / "r" / "changes.html").text


def test_pairs_use_the_test_of_the_claims(tmp_path):
    made = plane_ledger()
    write_site(report_of([made], tmp_path), tmp_path / "r")
    content = views(tmp_path / "r" / "tables" / "table-12.small" / "pairs.js")
    table = filled(made)
    lines = [line.key for line in table.definition.lines]
    i, j = lines.index("mean_flow@1"), lines.index("ot_exact@1")
    shown = content["pairs"][f"{i},{j}"][0]
    cells = [table.cells[key, "gaussians"] for key in ("mean_flow@1", "ot_exact@1")]
    column = next(c for c in table.definition.columns if c.key == "gaussians")
    expected = differences(*cells, column).interval
    assert shown[:3] == pytest.approx([expected.mean, expected.lower, expected.upper], abs=1e-4)
    assert shown[3:] == [5, -1]


def test_a_second_report_touches_only_what_changed(tmp_path):
    made, folder = plane_ledger(), tmp_path / "r"
    write_site(report_of([made], tmp_path), folder)
    old = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    (folder / "runs" / "left-over.html").write_text("an older run")
    made.done("ot_exact", "moons", 0, {"w2@1": 0.3, "w2@2": 0.3})
    write_site(report_of([made], tmp_path), folder)
    new = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    changed = {path.relative_to(folder).as_posix() for path in new if new[path] != old.get(path)}
    assert set(new) == set(old)
    assert changed == {
        "tables/table-12.small.html",
        "tables/table-12.small/ot_exact.js",
        "tables/table-12.small/pairs.js",
        "runs/ot_exact-moons-0.html",
    }


def test_a_built_table_without_runs_has_a_page(tmp_path):
    empty = Ledger(define(PLANE), "small")
    report = report_of([empty], tmp_path, tables={12: []})
    write_site(report, tmp_path / "r")
    page = read(tmp_path / "r" / "tables" / "table-12.small.html")
    assert "0 of 30 runs done" in page.text
    assert "– not run" in page.text
    assert "built, nothing run yet" in read(tmp_path / "r" / "index.html").text


def wide_ledger(seeds: int) -> Ledger:
    """A table of 25 rows and 20 columns."""

    def change(content):
        column = content["columns"]["moons"]
        content["columns"] = {f"c{k}": {**column, "task": f"generation/c{k}"} for k in range(20)}
        content["rows"] = {
            f"r{k}": {"label": f"Method {k}", "method": f"flow/r{k}"} for k in range(25)
        }
        content["seeds"] = {"small": list(range(seeds))}
        del content["claims"], content["figures"], content["evaluations"]

    definition = define(PLANE, change)
    made = Ledger(definition, "small")
    made.fill(lambda row, column, seed, at: mean([len(row), len(column), seed]))
    for record in made.records.values():
        record["spec"]["filler"] = {f"setting_{k}": k / 7 for k in range(60)}
        record["provenance"]["code"] = {f"sextant.module_{k}": "0123abcd" for k in range(30)}
    return made


def test_five_thousand_runs_make_small_pages_in_linear_time(tmp_path):
    seconds = []
    for seeds in (1, 10):
        made = wide_ledger(seeds)
        report = report_of([made], tmp_path)
        begun = time.process_time()
        pages = write_site(report, tmp_path / f"r{seeds}")
        seconds.append(time.process_time() - begun)
        assert pages == 3 + 500 * seeds
    # ten times the runs; a build that looked at all runs for each run would take a hundred times
    assert seconds[1] < 30 * seconds[0]
    site = tmp_path / "r10"
    texts = [path for path in site.rglob("*") if path.is_file()]
    sizes = {path.relative_to(site).as_posix(): path.stat().st_size for path in texts}
    assert max(sizes.values()) < MEGABYTE
    assert max(size for name, size in sizes.items() if name.startswith("runs/")) < 30_000
    table = (site / "tables" / "table-12.small.html").read_text()
    assert "setting_59" not in table
    assert table.count("data-cell=") == 500


def test_a_script_hands_over_any_text():
    text = "</script>\u2028'"
    written = script("key", {"a": text})
    assert "<" not in written
    match = re.fullmatch(r'sextant\.receive\("key",(.*)\);\n', written)
    assert json.loads(match[1]) == {"a": text}


def test_templates_styles_and_scripts_can_be_read_in_one_sitting():
    folder = ROOT / "src" / "sextant" / "tables" / "templates"
    lines = {p.name: p.read_text().count("\n") for p in folder.rglob("*") if p.is_file()}
    assert len(lines) > 15
    assert {name for name, count in lines.items() if count > 350} == set()


def test_a_name_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'up' is undefined"):
        render("run.html", name="x")


def test_scales_hold_zero_unless_scores_span_powers_of_ten():
    measure = scale([3.0, 4.0])
    assert measure.at(0.0) == 0.0
    assert measure.at(4.0) < 100
    assert measure.ticks() == [0.0, 1.0, 2.0, 3.0, 4.0]
    measure = scale([-2.0, 1.0])
    assert 0 < measure.at(-2.0) < measure.at(0.0) < measure.at(1.0) < 100
    measure = scale([0.01, 50.0])
    assert measure.logarithmic
    assert measure.ticks() == [0.01, 0.1, 1.0, 10.0]
    assert scale([0.0, 0.0]).at(0.0) == 0.0


def test_curves_of_a_run_that_is_being_written(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("step,metric,value\n1,loss,2.0\n2,loss,nan\n3,loss,1.5\n3,accuracy,0.5\n4,lo")
    assert by_metric(path) == {"loss": [(1, 2.0), (3, 1.5)], "accuracy": [(3, 0.5)]}
    assert by_metric(tmp_path / "none.csv") == {}
    points = [(float(k), float(k)) for k in range(100)]
    few = thin(points, 7)
    assert (len(few), few[0], few[-1]) == (7, points[0], points[-1])
    assert thin(points, 100) == points
    flat = Frame([[(1.0, 2.0)]])
    assert flat.place(1.0, 2.0) == "2,97"
