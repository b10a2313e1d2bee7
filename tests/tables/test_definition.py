import re
from pathlib import Path

import pytest

from sextant.tables.definition import (
    TableError,
    check_configs,
    find_table,
    find_tables,
    load,
    requests,
)

FILE = "tasks/x/tables/t.yaml"


DELETE = object()
FAULTS = {
    "number": (True, "number must be a whole number, got True"),
    "title": ("", "title must be a text, got ''"),
    "paper.printed": ("non", "paper.printed is 'non'; allowed: full, part, none; nearest match: "
                      "none"),
    "data": ({"smal": "y"}, "data names 'smal'; allowed: smoke, small, gpu, paper; nearest match: "
             "small"),
    "seeds.small": ([0, 0], "seeds.small must be different numbers, got [0, 0]"),
    "seeds.paper": (3, "seeds.paper must be a list, got 3"),
    "checkpoint.because": (DELETE, "checkpoint.because is missing"),
    "evaluations.at": ([-1], "evaluations.at[0] must be at least 0, got -1"),
    "columns.moons.digits": ("3", "columns.moons.digits must be a whole number, got '3'"),
    "columns.moons.metrics": ("w2", "columns.moons.metrics is not a field of columns.moons; "
                              "allowed: at, better, digits, guard, label, metric, target, task, "
                              "unit; nearest match: metric"),
    "columns.Moons": ({}, "columns.Moons is not a name of lower-case letters, digits and "
                      "underscores"),
    "rows.floor": ("x", "rows.floor must be a mapping, got 'x'"),
    "margin.absolute": (0, "margin.absolute must be above 0, got 0"),
    "published": ({"ot_exact@1": {"moons": "FAILED"}}, "published.ot_exact@1.moons is 'FAILED'; "
                  "allowed: a number, a mapping with mean, or one of FAIL, NA, not found; nearest "
                  "match: FAIL"),
    "claims.ot_better.than": ("mean_flow@1", "claims.ot_better.than must be a number, {row: name} "
                              "or {rows: [names]}"),
    "figures.samples.make": ("plane figure", "figures.samples.make must be a function in dotted "
                             "form, got 'plane figure'"),
    "claim": ({}, "claim is not a field of the file; allowed: checkpoint, claims, columns, data, "
              "evaluations, figures, id, margin, number, observations, paper, published, rows, "
              "seeds, summary, title; nearest match: claims"),
}  # fmt: skip


def put(path, value):
    """An edit of the parsed file: sets (or with DELETE removes) what stands at a dotted path."""

    def change(content):
        *parents, last = path.split(".")
        for name in parents:
            content = content[name]
        if value is DELETE:
            del content[last]
        else:
            content[last] = value

    return change


def refused(define, change) -> list[str]:
    with pytest.raises(TableError) as caught:
        define(change)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{FILE}: ") for line in lines)
    return [line.removeprefix(f"{FILE}: ") for line in lines]


def test_every_fault_of_a_file_is_a_line(define_plane):
    def spoil(content):
        for path, (value, _) in FAULTS.items():
            put(path, value)(content)

    found = refused(define_plane, spoil)
    assert set(found) - {sentence for _, sentence in FAULTS.values()} == {
        f"columns.Moons.{name} is missing" for name in ("label", "better", "task", "metric")
    }
    assert len(found) == len(FAULTS) + 4


CLAIM = "claims.ot_better"
AVERAGE = {"over": ["moons", "gausians"]}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("checkpoint.use", "best",
         "checkpoint lacks by: the best checkpoint needs a validation metric"),
        ("checkpoint.by", "test/w2",
         "checkpoint has by: 'test/w2', but test data never select anything"),
        ("columns.moons.at", [1, 3], "columns.moons.at names the point '3'; allowed: 1, 2"),
        ("rows.floor.not_applicable", {"moon": "no"}, "rows.floor.not_applicable names the column "
         "'moon'; allowed: gaussians, moons; nearest match: moons"),
        ("summary", {"moons": {"over": ["moons", "gaussians"]}},
         "summary.moons has the name of a column"),
        ("summary", {"avg": AVERAGE}, "summary.avg.over names the column 'gausians'; allowed: "
         "gaussians, moons; nearest match: gaussians"),
        ("margin.mons", {"absolute": 1, "because": "x"}, "margin names the column 'mons'; allowed: "
         "absolute, because, gaussians, moons; nearest match: moons"),
        ("margin.because", DELETE, "margin lacks because"),
        ("margin", {}, "margin lacks absolute"),
        ("published", {"ot_exact@1": {"moons": 0.3}},
         "published has values, but paper.printed is none"),
        ("paper.printed", "full", "published is empty, but paper.printed is full"),
        (f"{CLAIM}.than", {"row": "floor@1"}, "claims.ot_better.than names floor@1, a reference "
         "row, which claims never count"),
        (f"{CLAIM}.every.rows", ["mean_flow@1"],
         "claims.ot_better.every.rows compares mean_flow@1 with itself"),
        (f"{CLAIM}.every.rows", ["ot_exact"], "claims.ot_better.every.rows names the row "
         "'ot_exact' without a point of the evaluation axis; allowed: ot_exact@1, ot_exact@2"),
        (f"{CLAIM}.every.rows", [], "claims.ot_better compares no cells"),
        (f"{CLAIM}.every.columns", ["moon"], "claims.ot_better.every.columns names the column "
         "'moon'; allowed: all, gaussians, moons; nearest match: moons"),
        ("figures.samples.rows", ["floors"], "figures.samples.rows names the row 'floors'; allowed:"
         " all, mean_flow, ot_exact, floor; nearest match: floor"),
    ],
)  # fmt: skip
def test_parts_that_contradict_each_other(define_plane, path, value, sentence):
    assert refused(define_plane, put(path, value)) == [sentence]


def test_contradictions_are_listed_beside_faults_of_other_parts(define_plane):
    def spoil(content):
        put("title", 3)(content)
        put("margin", DELETE)(content)
        put("published", {"ot_exactly@1": {}, "ot_exact@1": {"moon": 1}})(content)
        put(f"{CLAIM}.than", {"row": "mean_flow@3"})(content)

    needs = "at_least_as_good_as needs a margin for column"
    assert refused(define_plane, spoil) == [
        "title must be a text, got 3",
        "published names the row 'ot_exactly@1'; allowed: mean_flow@1, ot_exact@1, floor@1, "
        "mean_flow@2, ot_exact@2; nearest match: ot_exact@1",
        "published.ot_exact@1 names the column 'moon'; allowed: gaussians, moons; nearest match: "
        "moons",
        "published has values, but paper.printed is none",
        "claims.ot_better.than names the row 'mean_flow@3'; allowed: mean_flow@1, ot_exact@1, "
        "floor@1, mean_flow@2, ot_exact@2; nearest match: mean_flow@2",
        f"claims.one_step_enough lacks a margin: {needs} gaussians, here or in the table's margin",
        f"claims.one_step_enough lacks a margin: {needs} moons, here or in the table's margin",
    ]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("rows.luna.at", [1], "rows.luna.at is given, but the table has no evaluations"),
        ("columns.pathx.better", "lower",
         "summary.avg.over mixes columns where higher and where lower is better"),
        ("margin", {"pathx": {"absolute": 1.0, "because": "x"}}, "published.softmax.listops is a "
         "printed value, but margin says none for its column"),
    ],
)  # fmt: skip
def test_contradictions_of_averages_and_printed_values(define_arena, path, value, sentence):
    assert sentence in refused(define_arena, put(path, value))


def test_everything_written_is_read(plane, arena):
    assert [line.key for line in plane.lines] == [
        *("mean_flow@1", "ot_exact@1", "floor@1", "mean_flow@2", "ot_exact@2")
    ]
    assert plane.columns[1].digits == 3
    assert plane.rows[2].reference
    assert plane.data["paper"] == "generated, exact protocol"
    assert arena.data == {"small": "generated stand-ins", "paper": "the benchmark itself"}
    assert [line.key for line in arena.lines] == ["softmax", "luna", "linear"]
    assert arena.summaries[0].over == ("listops", "pathx")
    assert (arena.summaries[0].better, arena.summaries[0].digits) == ("higher", 1)
    printed = arena.published["luna", "listops"]
    assert (printed.mean, printed.std, printed.n, printed.source) == (37.1, 0.3, 3, "appendix")
    assert arena.published["softmax", "pathx"].word == "FAIL"
    assert arena.margins["pathx"].absolute == 2.0
    assert arena.margins["avg"].absolute == 1.0


def test_a_row_evaluated_once_comes_last(define_plane):
    lines = define_plane(put("rows.floor.at", "once")).lines
    assert (lines[-1].key, lines[-1].at) == ("floor", None)


def test_points_evaluate_one_run(plane):
    asked = requests(plane, "small")
    assert len(asked) == 3 * 2 * 5
    assert len({(r.row, r.column, r.seed) for r in asked}) == len(asked)
    assert (asked[0].task, asked[0].method) == ("generation/gaussians", "flow/mean_flow")
    assert [r.seed for r in requests(plane, "small", [7])] == [7] * 6


def test_a_column_that_does_not_apply_asks_for_nothing(arena):
    pairs = {(r.row, r.column) for r in requests(arena, "small")}
    assert ("linear", "listops") in pairs
    assert ("linear", "pathx") not in pairs


def test_a_tier_without_seeds(plane):
    with pytest.raises(TableError) as caught:
        requests(plane, "gpu")
    assert str(caught.value) == f"{FILE}: seeds has no tier 'gpu'; allowed: smoke, small, paper"


def test_finding_tables(root):
    assert [table.number for table in find_tables(root)] == [12]
    for which in (12, "12", "otmf-1"):
        table = find_table(root, which)
        assert table.id == "otmf-1"
        assert table.paper.title == "Transport-Based Mean Flows for Generative Modeling"
        assert table.file == "tasks/generation/tables/otmf-1.yaml"


def test_a_wrong_table_does_not_hide_another(root):
    (root / "tasks/generation/tables/otmf-2.yaml").write_text("number: twelve")
    assert find_table(root, 12).number == 12
    with pytest.raises(TableError, match=r"otmf-2.yaml: number must be a whole number"):
        find_tables(root)


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        (14, "table 14 (otmf-3, images in pixel space, conditional) is not built yet; built: 12"),
        (40, "there is no table 40; numbers go from 1 to 38"),
        ("otfm-1", "there is no table 'otfm-1'; allowed: a number or an id of "
         "tasks/register.yaml; nearest match: otmf-1"),
    ],
)  # fmt: skip
def test_tables_that_are_not_there(root, which, sentence):
    with pytest.raises(TableError) as caught:
        find_table(root, which)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("number: 12", "number: 13", "number is 13, but the register gives otmf-1 12"),
        ("key: ot_meanflow", "key: ot_mean_flow", "paper.key is 'ot_mean_flow', but the register "
         "says ot_meanflow; nearest match: ot_meanflow"),
        ("id: otmf-1", "id: otmf-9", "id is 'otmf-9', but the file is otmf-1.yaml"),
        ("id: otmf-1", "id: otmf-1\nid: otmf-1", "the file is not valid YAML on line 4: the key "
         "'id' is written twice"),
        ("title: One", "title: [One", "the file is not valid YAML on line"),
    ],
)  # fmt: skip
def test_files_that_contradict(root, old, new, sentence):
    path = root / "tasks/generation/tables/otmf-1.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(TableError) as caught:
        find_tables(root)
    assert str(caught.value).startswith(f"tasks/generation/tables/otmf-1.yaml: {sentence}")


def test_the_texts_beside_a_table_file(root):
    table = find_table(root, 12)
    assert table.deviations == ("400 points less than the paper",)
    assert table.assumptions == ("widths are ours",)
    path = root / "tasks/generation/tables/otmf-1.md"
    text = path.read_text()
    for old, new, sentence in (
        ("# Assumptions", "# Asumptions", "asumptions is not a field of the file; allowed: "
         "assumptions, deviations; nearest match: assumptions"),
        ("- widths", "widths", "line 8 is no heading, no '- text' and not indented"),
    ):  # fmt: skip
        path.write_text(text.replace(old, new))
        with pytest.raises(TableError) as caught:
            find_table(root, 12)
        assert str(caught.value) == f"tasks/generation/tables/otmf-1.md: {sentence}"
    path.unlink()
    assert find_table(root, 12).deviations == ()


def test_two_files_with_one_number(root):
    text = (root / "tasks/generation/tables/otmf-1.yaml").read_text()
    other = root / "tasks/tissue/tables"
    other.mkdir(parents=True)
    (other / "otmf-1.yaml").write_text(text)
    with pytest.raises(TableError, match=r"number is 12, which tasks/generation/tables/otmf-1"):
        find_tables(root)


def test_a_file_that_is_not_a_mapping(tmp_path):
    path = tmp_path / "otmf-1.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(TableError, match=re.escape("otmf-1.yaml: the file must be a mapping")):
        load(path, tmp_path)


def test_configs_are_checked_by_name(root):
    table = find_table(root, 12)
    for name in ("task/generation/gaussians", "task/generation/moons", "method/flow/mean_flow",
                 "method/flow/ot_exact", "method/reference/second_draw"):  # fmt: skip
        path = root / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("version: 1\n")
    check_configs(table, root)
    (root / "conf/method/flow/ot_exact.yaml").rename(root / "conf/method/flow/exact_ot.yaml")
    with pytest.raises(TableError) as caught:
        check_configs(table, root)
    assert str(caught.value) == (
        "tasks/generation/tables/otmf-1.yaml: rows.ot_exact.method is 'flow/ot_exact', which no "
        "file of conf/method offers; nearest match: flow/exact_ot"
    )


def test_every_table_of_the_project_can_be_read():
    root = Path(__file__).parents[2]
    for table in find_tables(root):
        check_configs(table, root)
