import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sextant.tables.render import comma_separated, latex, markdown, terminal, write_all
from sextant.tables.table import build
from sextant.tables.templating import tex


def accuracy(row, column, seed, at):
    return {"softmax": 36.0, "luna": 37.0, "linear": 30.0}[row] + seed


@pytest.fixture
def arena_table(arena, ledger):
    made = ledger(arena, "paper").fill(accuracy)
    for seed in range(3):
        made.failed("softmax", "pathx", seed, "diverged")
    made.failed("luna", "pathx", 1, "oom")
    return build(arena, "paper", made.planned, made.records, {"luna/listops/0"})


@pytest.fixture
def plane_table(plane, ledger):
    made = ledger(plane, "small").fill(
        lambda row, column, seed, at: (0.3 if row == "ot_exact" else 0.5) / at + 0.01 * seed
    )
    return build(plane, "small", made.planned, made.records)


def printed(table, width=110):
    out = io.StringIO()
    terminal(table, Console(file=out, width=width))
    return out.getvalue()


def test_rows_that_lack_the_same_share_a_sentence(define_plane, ledger):
    def change(table):
        for row in ("mean_flow", "ot_exact"):
            table["rows"][row]["not_applicable"] = {"gaussians": "no", "moons": "no"}
        table["claims"] = {}
        table["columns"]["moons"]["at"] = [2]

    made = ledger(define_plane(change), "small").fill(lambda *_: 0.1)
    text = markdown(build(made.definition, "small", made.planned, made.records))
    assert "- **Not applicable**" in text
    assert "Mean Flow; exact OT, N(0,I) to 8 Gaussians; N(0,I) to two moons: no" in text
    assert "N(0,I) to two moons: scored at NFE 2 only" in text


def test_markdown_of_a_table_with_printed_values(arena_table):
    lines = markdown(arena_table).splitlines()
    assert lines[0] == "# Table 1: Accuracy"
    assert "|  | ListOps (% ↑) | Path-X (% ↑) | Average (% ↑) |" in lines
    assert (
        "| softmax | 37.0 ± 1.0 (3/3)<br>paper 36.4, reproduced | "
        "FAIL(diverged 3/3)<br>paper FAIL, agrees | FAIL(diverged 3/3) |"
    ) in lines
    assert (
        "| LUNA | **38.0 ± 1.0** (3/3) stale<br>paper 37.1 ± 0.3 (n=3), reproduced | "
        "38.0 ± 1.4 (2/3)!<br>paper 80.1, inconclusive | "
        "38.0 ± 1.4 (2/3)! stale<br>paper 58.6, inconclusive |"
    ) in lines
    assert "| linear | 31.0 ± 1.0 (3/3) | n/a | n/a |" in lines
    assert "  - diverged 3: softmax / Path-X (seeds 0, 1, 2)" in lines
    assert "  - oom 1: LUNA / Path-X (seed 1)" in lines
    assert (
        "- **Stale**: 2 cells have runs of code that has changed since; shown, not rerun" in lines
    )
    assert "- **Not found in the paper**: linear: ListOps" in lines
    assert "- **Not applicable**: linear, Path-X: runs out of positions" in lines
    assert "- ? **inconclusive**: LUNA has the best average  " in lines


def test_markdown_of_a_table_with_an_axis(plane_table):
    lines = markdown(plane_table).splitlines()
    assert "| NFE |  | N(0,I) to 8 Gaussians (W2 ↓) | N(0,I) to two moons (W2 ↓) |" in lines
    assert "| 1 | exact OT | **0.320 ± 0.016** (5/5) | **0.320 ± 0.016** (5/5) |" in lines
    assert "| 1 | Mean Flow \\* | 0.520 ± 0.016 (5/5) | 0.520 ± 0.016 (5/5) |" in lines
    assert "- **Not found in the paper**: every printed value of this table" in lines
    assert "  - Mean Flow\\*: EMA 0.99: not stated" in lines
    assert "  - N(0,I) to two moons: moons law = f00d" in lines
    assert "- **Runs**: 30 runs, 0.3 CPU hours; commit 0123456789" in lines
    assert any(line.startswith("- **Seeds**: 5 a cell (0, 1, 2, 3, 4)") for line in lines)
    assert "- ✓ **holds**: At one step OT beats independent pairing.  " in lines


def test_markdown_shows_labels_as_written(define_plane, ledger):
    def change(content):
        content["rows"]["ot_exact"]["label"] = "a|b_c <d> $e$"

    definition = define_plane(change)
    page = markdown(build(definition, "small", ledger(definition, "small").planned, {}))
    assert r"| 1 | a\|b\_c \<d\> \$e\$ | -- missing 5/5 | -- missing 5/5 |" in page


def test_a_guarded_cell_is_marked_and_explained(define_arena, ledger):
    def change(content):
        content["columns"]["listops"]["guard"] = {"metric": "learned", "says": "learned nothing"}

    made = ledger(define_arena(change), "small").fill(lambda *_: 30.0)
    made.done("luna", "listops", 1, {"acc": 17.0, "learned": 0.0})
    page = markdown(build(made.definition, "small", made.planned, made.records))
    assert "(3/3) ‡" in page
    assert page.count("(3/3) ‡") == 2  # the cell, and the average it is in
    assert "runs that learned nothing: LUNA / ListOps (1 of 3)" in page


def test_the_terminal_fits(plane_table, arena_table):
    for table in (plane_table, arena_table):
        page = printed(table, 100)
        assert max(len(line) for line in page.splitlines()) <= 100
    page = printed(plane_table)
    assert page.index("NFE 1") < page.index("0.320 ± 0.016") < page.index("NFE 2")
    assert "✓ holds: At one step OT beats independent pairing." in page
    page = printed(arena_table)
    assert "FAIL(diverged 3/3)" in page
    assert "paper FAIL, agrees" in page


def test_an_empty_ledger_renders(plane, ledger):
    table = build(plane, "small", ledger(plane, "small").planned, {})
    assert "-- missing 5/5" in printed(table)
    assert "not run" in printed(table)
    latex(table)


def test_the_best_is_bold_in_the_terminal(plane_table):
    out = io.StringIO()
    terminal(plane_table, Console(file=out, width=110, force_terminal=True))
    bold = [line for line in out.getvalue().splitlines() if "\x1b[1m0.320 ± 0.016" in line]
    assert len(bold) == 1
    assert "exact OT" in bold[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & more_of #1", r"50 \% \& more\_of \#1"),
        ("$x^2$ {a}", r"\$x\textasciicircum{}2\$ \{a\}"),
        ("a\\b~c", r"a\textbackslash{}b\textasciitilde{}c"),
        ("1 ± 2 ↓ <3>", r"1 $\pm$ 2 $\downarrow$ \textless{}3\textgreater{}"),
    ],
)
def test_tex_escapes(text, expected):
    assert tex(text) == expected


def test_tex_is_balanced_and_aligned(arena_table, plane_table):
    for table in (arena_table, plane_table):
        page = latex(table)
        for name in ("table", "tabularx"):
            assert page.count(rf"\begin{{{name}}}") == page.count(rf"\end{{{name}}}") == 1
        bare = page.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        columns = len(table.definition.all_columns)
        body = page.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\&", "")
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        plain = [line for line in rows if not line.startswith(r"\multicolumn")]
        assert all(line.count("&") == columns for line in plain)
    page = latex(arena_table)
    assert (
        r"LUNA & $\mathbf{38.0}_{\pm 1.0}^{\circ}$ & $38.0_{\pm 1.4}^{2/3}$ & "
        r"$38.0_{\pm 1.4}^{2/3\circ}$ \\"
    ) in page
    assert r" & {\tiny$(36.4)$} $\surd$ & {\tiny(FAIL)} $\surd$ &  \\" in page
    assert r"\multicolumn{3}{l}{\textit{NFE 1}} \\" in latex(plane_table)


def test_values_that_cannot_be_compared_are_said_once(arena, ledger):
    made = ledger(arena, "small").fill(accuracy)
    page = latex(build(arena, "small", made.planned, made.records))
    assert page.count("not comparable") == 1
    assert r"{\tiny$(37.1_{\pm 0.3})$}" in page


@pytest.fixture
def wide(define_arena, ledger):
    """Makes a table of so many columns."""

    def make(columns):
        def change(content):
            column = content["columns"]["listops"]
            content["columns"] = {f"c{k}": column | {"label": f"List {k}"} for k in range(columns)}
            content["published"] = {"luna": {"c0": 37.1}}
            del content["summary"], content["claims"]
            del content["rows"]["linear"]["not_applicable"], content["margin"]["pathx"]

        made = ledger(define_arena(change), "small").fill(lambda *_: 50.0)
        return latex(build(made.definition, "small", made.planned, made.records))

    return make


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_tex_compiles_and_up_to_six_columns_fit(arena_table, plane_table, wide, tmp_path):
    committed = sorted((Path(__file__).parents[2] / "results" / "tables").glob("table-??.tex"))
    pages = [latex(arena_table), latex(plane_table), wide(6), wide(7)]
    pages += [path.read_text() for path in committed]
    assert [r"\begin{sidewaystable}" in page for page in pages[:4]] == [False, False, False, True]
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,tabularx,rotating}"
    body = "\n".join(f"\\typeout{{page {k}}}\n{page}\\clearpage" for k, page in enumerate(pages))
    (tmp_path / "all.tex").write_text(f"{head}\\begin{{document}}\n{body}\\end{{document}}\n")
    called = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    for page, said in zip(pages, re.split(r"\npage \d+\n", done.stdout)[1:], strict=True):
        assert r"\begin{sidewaystable}" in page or "Overfull" not in said, page[:400]


def test_csv_has_full_precision(arena_table):
    rows = list(csv.DictReader(io.StringIO(comma_separated(arena_table))))
    assert len(rows) == 9
    luna = next(r for r in rows if (r["row"], r["column"]) == ("luna", "listops"))
    assert (luna["mean"], luna["n"], luna["printed"], luna["verdict"]) == (
        *("38.0", "3", "37.1", "reproduced"),
    )
    failed = next(r for r in rows if (r["row"], r["column"]) == ("softmax", "pathx"))
    assert (failed["mean"], failed["state"], failed["printed"]) == ("", "failed:diverged", "FAIL")


def test_files_of_every_tier(plane, ledger, tmp_path):
    def write(tier, filled):
        made = ledger(plane, tier)
        if filled:
            made.fill(lambda row, column, seed, at: 0.5)
        return write_all(build(plane, tier, made.planned, made.records), tmp_path)

    def tier_of_the_main_file():
        return json.loads((tmp_path / "table-12.json").read_text())["tier"]

    paths = write("small", False)
    assert [path.name for path in paths] == [
        *("table-12.small.md", "table-12.small.tex", "table-12.small.csv", "table-12.small.json"),
        *("table-12.md", "table-12.tex", "table-12.csv", "table-12.json"),
    ]
    assert tier_of_the_main_file() == "small"
    write("paper", False)
    write("smoke", True)
    assert tier_of_the_main_file() == "smoke"
    write("paper", True)
    write("small", True)
    assert tier_of_the_main_file() == "paper"
    main = (tmp_path / "table-12.md").read_text()
    assert main == (tmp_path / "table-12.paper.md").read_text()
    write("paper", False)
    assert tier_of_the_main_file() == "small"
    assert len(list(tmp_path.iterdir())) == 4 * 4


def test_rendering_again_touches_nothing(plane_table, tmp_path):
    paths = write_all(plane_table, tmp_path)
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_all(plane_table, tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_failed_write_leaves_the_old_file(plane_table, tmp_path, monkeypatch):
    (tmp_path / "table-12.small.md").write_text("old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_all(plane_table, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table-12.small.md"]
    assert (tmp_path / "table-12.small.md").read_text() == "old"


def test_rendering_needs_no_numerical_package():
    code = (
        "import sys, sextant.tables.render, sextant.tables.explain, sextant.tables.definition;"
        "bad = {'torch', 'numpy', 'scipy', 'pandas', 'hydra', 'rich'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
