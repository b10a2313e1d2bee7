import pytest

from sextant.tables.explain import explain
from sextant.tables.reading import TableError
from sextant.tables.table import build


@pytest.fixture
def table(plane, ledger):
    made = ledger(plane, "small").fill(lambda row, column, seed, at: 0.5 / at + 0.01 * seed)
    made.failed("ot_exact", "moons", 1, "diverged")
    del made.records["ot_exact/moons/2"]
    made.records["ot_exact/moons/4"]["spec"]["task"]["version"] = 2
    made.records["ot_exact/moons/0"]["parents"] = ["abc123"]
    return build(plane, "small", made.planned, made.records)


def test_a_cell_shows_all_that_made_it(table):
    lines = [line.strip() for line in explain(table, "ot_exact@2", "moons").splitlines()]
    assert lines[0] == "table 12 (otmf-1), exact OT, N(0,I) to two moons"
    assert lines[1] == "ot_exact@2: 0.273 ± 0.021 (3/5)!  [partial, 3/5]"
    assert ("seed 0  ot_exact/moons/0  done  w2@2 = 0.25 (on 2000, standard error 0.01)") in lines
    assert "seed 1  ot_exact/moons/1  failed (diverged): it was diverged" in lines
    assert "seed 2  ot_exact/moons/2  missing" in lines
    for expected in (
        ".venv/bin/sextant run task=generation/moons method=flow/ot_exact tier=small seed=2",
        "commit 0123456789abcdef",
        "data moons law: f00d",
        "packages torch 2.14.0",
        "36.0 s on cpu (a processor), 512 MB at most",
        "starts from abc123",
        "settings of seeds 0, 1, 3:",
        "settings of seed 4:",
        "version: 2",
    ):
        assert expected in lines


def test_a_row_alone_shows_every_point(table):
    text = explain(table, "ot_exact", "gaussians")
    assert "w2@1 = 0.5 (on 2000, standard error 0.01), w2@2 = 0.25" in text
    assert text.count("sextant run ") == 5


def test_an_average_shows_its_columns(arena, ledger):
    made = ledger(arena, "paper").fill(lambda *place: 40.0)
    table = build(arena, "paper", made.planned, made.records)
    text = explain(table, "luna", "avg")
    assert text.count("task lra/listops, method attention/luna, tier paper") == 1
    assert text.count("sextant run task=lra/pathx method=attention/luna tier=paper") == 3
    assert explain(table, "linear", "pathx").endswith(
        "not applicable: pathx: runs out of positions\n"
    )


@pytest.mark.parametrize(
    ("row", "column", "sentence"),
    [
        ("ot_exac", "moons", "table 12 has no row 'ot_exac'; allowed: mean_flow, ot_exact, floor, "
         "mean_flow@1, ot_exact@1, floor@1, mean_flow@2, ot_exact@2; nearest match: ot_exact"),
        ("ot_exact", "moon", "table 12 has no column 'moon'; allowed: gaussians, moons; nearest "
         "match: moons"),
    ],
)  # fmt: skip
def test_unknown_cells(table, row, column, sentence):
    with pytest.raises(TableError) as caught:
        explain(table, row, column)
    assert str(caught.value) == sentence
