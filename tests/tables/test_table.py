import json
import random
from dataclasses import replace

import pytest

from sextant.tables.explain import explain
from sextant.tables.reading import TableError
from sextant.tables.table import build, to_json
from sextant.tables.texts import column_note


def value(row, column, seed, at):
    return {"mean_flow": 0.5, "ot_exact": 0.3, "floor": 0.01}[row] / at + 0.01 * seed


def accuracy(row, column, seed, at):
    return {"softmax": 36.0, "luna": 37.0, "linear": 30.0}[row] + seed


@pytest.fixture
def small(plane, ledger):
    return ledger(plane, "small").fill(value)


@pytest.fixture
def paper(arena, ledger):
    return ledger(arena, "paper").fill(accuracy)


def cell_of(made, row, column, stale=()):
    return build(made.definition, made.tier, made.planned, made.records, stale).cells[row, column]


def test_a_finished_cell(small):
    cell = cell_of(small, "ot_exact@2", "moons")
    assert (cell.state, cell.n, cell.planned) == ("done", 5, 5)
    assert cell.mean == pytest.approx(0.17)
    assert cell.std == pytest.approx(0.01 * 2.5**0.5)
    assert cell.runs == tuple(f"ot_exact/moons/{seed}" for seed in range(5))
    assert cell.verdict == "nothing printed"


def test_a_reference_row_has_no_verdict(small):
    assert cell_of(small, "floor@1", "moons").verdict is None


def test_missing_runs(small):
    assert cell_of(small, "ot_exact@1", "moons").state == "done"
    for seed in (1, 3):
        del small.records[f"ot_exact/moons/{seed}"]
    cell = cell_of(small, "ot_exact@1", "moons")
    assert (cell.state, cell.n, cell.missing) == ("partial", 3, (1, 3))
    assert cell.runs == ("ot_exact/moons/0", "ot_exact/moons/2", "ot_exact/moons/4")
    small.records.clear()
    cell = cell_of(small, "ot_exact@1", "moons")
    assert (cell.state, cell.mean, cell.std, cell.n, cell.runs) == ("missing", None, None, 0, ())


def test_failed_runs(small):
    small.failed("ot_exact", "moons", 2, "oom")
    cell = cell_of(small, "ot_exact@1", "moons")
    assert (cell.state, cell.n, dict(cell.failures)) == ("partial", 4, {2: "oom"})
    assert cell.mean == pytest.approx(0.3 + 0.01 * 8 / 4)
    for seed in range(4):
        small.failed("ot_exact", "moons", seed, "diverged")
    small.failed("ot_exact", "moons", 4, "oom")
    cell = cell_of(small, "ot_exact@1", "moons")
    assert (cell.state, cell.mean) == ("failed:diverged+oom", None)
    assert len(cell.runs) == 5


def test_a_column_of_some_points_is_empty_at_the_others(define_plane, ledger):
    definition = define_plane(lambda table: table["columns"]["moons"].update(at=[2]))
    made = ledger(definition, "small").fill(value)
    table = build(made.definition, made.tier, made.planned, made.records)
    assert not table.cells["ot_exact@1", "moons"].applicable
    assert table.cells["ot_exact@2", "moons"].state == "done"
    assert table.cells["ot_exact@1", "gaussians"].state == "done"
    told = explain(table, "ot_exact@1", "moons")
    assert "not applicable: moons is scored at NFE 2 only" in told
    told = explain(table, "ot_exact", "moons")
    assert "w2@2 = " in told
    assert "not scored" not in told


def test_the_axis_may_begin_at_zero(define_plane):
    definition = define_plane(lambda table: table["evaluations"].update(at=[0, 1, 2]))
    assert definition.lines[0].key == "mean_flow@0"


def test_a_metric_that_was_not_scored_is_a_failure_of_that_line_only(small):
    del small.records["ot_exact/moons/0"]["scores"]["w2@2"]
    assert cell_of(small, "ot_exact@1", "moons").state == "done"
    cell = cell_of(small, "ot_exact@2", "moons")
    assert (cell.state, dict(cell.failures)) == ("partial", {0: "not scored"})


def test_a_wrong_metric_names_those_there_are(define_plane, ledger):
    def spoil(content):
        content["columns"]["moons"]["metric"] = "w3"
        del content["evaluations"], content["rows"]["floor"]["at"]
        content["claims"].clear()

    made = ledger(define_plane(spoil), "small")
    for row, column in made.planned:
        made.done(row, column, 0, {f"w2@{k}": 1.0 for k in (20, 1, 2)})
    table = build(made.definition, "small", made.planned, made.records)
    has = "which none of its runs has; they have w2@1, w2@2, w2@20"
    assert table.notes == (
        f"Column N(0,I) to 8 Gaussians asks for the score w2, {has}",
        f"Column N(0,I) to two moons asks for the score w3, {has}",
    )


def with_guard(content):
    guard = {"metric": "learned", "says": "are no better than guessing"}
    content["columns"]["listops"]["guard"] = guard


def test_a_guard_marks_runs_and_hides_nothing(define_arena, ledger):
    made = ledger(define_arena(with_guard), "small").fill(accuracy)
    for seed, learned in enumerate((1.0, 0.0, 0.0)):
        made.done("luna", "listops", seed, {"acc": 17.0 + seed, "learned": learned})
    table = build(made.definition, "small", made.planned, made.records)
    cell, other = table.cells["luna", "listops"], table.cells["softmax", "listops"]
    assert (cell.guarded, cell.state, cell.mean) == ((1, 2), "done", pytest.approx(18.0))
    assert other.guarded == ()
    shown = {(c["row"], c["column"]): c.get("guarded") for c in json.loads(to_json(table))["cells"]}
    assert shown["luna", "listops"] == [1, 2]
    assert shown["softmax", "listops"] is None


def test_a_reference_row_is_not_guarded(define_arena, ledger):
    def change(content):
        with_guard(content)
        content["rows"]["linear"]["reference"] = True

    made = ledger(define_arena(change), "small").fill(accuracy)
    for row in ("linear", "luna"):
        made.done(row, "listops", 0, {"acc": 17.0, "learned": 0.0})
    assert cell_of(made, "linear", "listops").guarded == ()
    assert cell_of(made, "luna", "listops").guarded == (0,)


def test_a_score_that_is_not_finite_diverged(small):
    small.records["ot_exact/moons/0"]["scores"]["w2@2"]["value"] = float("nan")
    assert dict(cell_of(small, "ot_exact@2", "moons").failures) == {0: "diverged"}
    json.loads(to_json(build(small.definition, "small", small.planned, small.records)))


def test_stale_is_shown_only_on_a_complete_cell(small):
    assert cell_of(small, "ot_exact@1", "moons", {"ot_exact/moons/4"}).state == "stale"
    assert cell_of(small, "ot_exact@1", "moons", {"mean_flow/moons/4"}).state == "done"
    del small.records["ot_exact/moons/0"]
    cell = cell_of(small, "ot_exact@1", "moons", {"ot_exact/moons/4"})
    assert (cell.state, cell.stale) == ("partial", True)


def test_averages_are_recomputed(paper):
    cell = cell_of(paper, "luna", "avg")
    assert (cell.mean, cell.state, cell.planned) == (38.0, "done", 3)
    assert dict(cell.values) == {0: 37.0, 1: 38.0, 2: 39.0}
    del paper.records["luna/pathx/1"]
    cell = cell_of(paper, "luna", "avg")
    assert (cell.state, dict(cell.values), cell.missing) == ("partial", {0: 37.0, 2: 39.0}, (1,))
    for seed in range(3):
        paper.failed("luna", "pathx", seed, "diverged")
    cell = cell_of(paper, "luna", "avg")
    assert (cell.state, cell.mean) == ("failed:diverged", None)
    assert cell_of(paper, "linear", "avg").state == "not_applicable"
    assert cell_of(paper, "linear", "pathx").state == "not_applicable"


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("listops", (36.0, 37.0, 38.0), "reproduced"),  # printed 37.1, margin 1
        ("listops", (33.0, 33.1, 33.2), "differs"),
        ("listops", (35.0, 36.0, 36.5), "inconclusive"),  # outside, but its interval reaches in
        ("listops", (36.0, 37.0, None), "inconclusive"),
        ("listops", ("oom", "oom", "oom"), "differs"),
        ("listops", (None, None, None), "not run"),
    ],
)
def test_verdicts_at_tier_paper(paper, column, values, expected):
    for seed, found in enumerate(values):
        if found is None:
            del paper.records[f"luna/{column}/{seed}"]
        elif isinstance(found, str):
            paper.failed("luna", column, seed, found)
        else:
            paper.done("luna", column, seed, {"acc": found})
    assert cell_of(paper, "luna", column).verdict == expected


def test_verdicts_on_a_printed_failure(paper):
    assert cell_of(paper, "softmax", "pathx").verdict == "differs"
    paper.failed("softmax", "pathx", 0, "diverged")
    assert cell_of(paper, "softmax", "pathx").verdict == "inconclusive"
    for seed in (1, 2):
        paper.failed("softmax", "pathx", seed, "oom")
    assert cell_of(paper, "softmax", "pathx").verdict == "agrees"


def test_one_seed_is_inconclusive(define_arena, ledger):
    definition = define_arena(lambda content: content["seeds"].update(paper=[0]))
    made = ledger(definition, "paper").fill(accuracy)
    assert cell_of(made, "luna", "listops").verdict == "inconclusive"


def test_verdicts_on_words(paper):
    assert cell_of(paper, "softmax", "avg").verdict == "nothing printed"
    assert cell_of(paper, "linear", "listops").verdict == "not found"


def test_below_tier_paper_nothing_is_comparable(arena, ledger):
    made = ledger(arena, "small").fill(accuracy)
    assert cell_of(made, "luna", "listops").verdict == "not comparable"
    assert cell_of(made, "softmax", "pathx").verdict == "not comparable"
    assert cell_of(made, "softmax", "avg").verdict == "nothing printed"


def test_a_printed_average_is_checked_against_its_cells(define_arena, ledger):
    def change(content):
        content["published"]["luna"]["avg"] = 60.0

    definition = define_arena(change)
    table = build(definition, "paper", ledger(definition, "paper").planned, {})
    assert table.notes == (
        "The paper prints 60.0 as Average of LUNA, but its printed cells average to 58.6",
    )


def test_data_that_changed_under_one_name_is_noted(small):
    small.records["ot_exact/moons/0"]["provenance"]["data"] = {"moons law": "beef"}
    table = build(small.definition, "small", small.planned, small.records)
    expected = "Runs of column N(0,I) to two moons saw 2 different versions of moons law"
    assert table.notes == (expected,)


def test_origins_count_each_run_once(small):
    small.records["ot_exact/moons/0"]["provenance"] |= {"device": "gpu", "dirty": True}
    small.records["elsewhere"] = small.records["ot_exact/moons/0"]
    origins = build(small.definition, "small", small.planned, small.records).origins
    assert origins.runs == 30
    assert origins.hours == {"cpu": pytest.approx(0.29), "gpu": pytest.approx(0.01)}
    assert origins.commits == ("0123456789", "0123456789+")
    assert origins.data_of["moons"] == {"moons law": ("f00d",)}


def test_holes_are_listed_once_a_run(small):
    small.failed("ot_exact", "moons", 2, "oom")
    del small.records["mean_flow/gaussians/0"]
    holes = build(small.definition, "small", small.planned, small.records).holes
    assert [(h.reason, h.row, h.column, h.seeds) for h in holes] == [
        ("missing", "mean_flow", "gaussians", (0,)),
        ("oom", "ot_exact", "moons", (2,)),
    ]


def test_the_best_is_complete_and_no_reference(small):
    table = build(small.definition, "small", small.planned, small.records)
    assert table.best(table.definition.columns[0], 1) == {"ot_exact@1"}
    small.failed("ot_exact", "gaussians", 0, "oom")
    table = build(small.definition, "small", small.planned, small.records)
    assert table.best(table.definition.columns[0], 1) == frozenset()


def test_with_a_target_the_best_is_the_nearest_and_the_note_names_it(small):
    table = build(small.definition, "small", small.planned, small.records)
    column = table.definition.columns[0]
    means = {
        line.key: table.cells[line.key, column.key].mean
        for line in table.definition.lines
        if line.at == 1 and not line.row.reference
    }
    for key, value in means.items():
        aimed = replace(column, target=round(value, column.digits))
        definition = replace(table.definition, columns=(aimed, *table.definition.columns[1:]))
        assert key in replace(table, definition=definition).best(aimed, 1)
        assert column_note(aimed).endswith(f"→ {aimed.target:g}")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda made: made.planned.pop(("ot_exact", "moons")),
         "planned has 0 runs for ot_exact/moons; allowed: one for each of the 5 seeds"),
        (lambda made: made.records["ot_exact/moons/1"].update(seed=4),
         "planned: run ot_exact/moons/1 stands for seed 1 of ot_exact/moons, but the ledger says "
         "seed 4"),
        (lambda made: made.records["ot_exact/moons/1"]["scores"]["w2@1"].update(better="higher"),
         "columns.moons.better is lower, but run ot_exact/moons/1 scored w2@1 with better: higher"),
        (lambda made: setattr(made, "tier", "tiny"),
         "tier is 'tiny'; allowed: smoke, small, gpu, paper"),
    ],
)  # fmt: skip
def test_contradictions(small, spoil, sentence):
    spoil(small)
    with pytest.raises(TableError) as caught:
        build(small.definition, small.tier, small.planned, small.records)
    assert str(caught.value) == sentence


def test_other_seeds_than_the_stated_ones(plane, small):
    planned = {key: runs[1:3] for key, runs in small.planned.items()}
    table = build(plane, "small", planned, small.records, seeds=[1, 2])
    assert table.cells["ot_exact@1", "moons"].mean == pytest.approx(0.315)
    assert json.loads(to_json(table))["seeds"] == [1, 2]


def test_json_is_the_contract(paper):
    text = to_json(build(paper.definition, "paper", paper.planned, paper.records))
    content = json.loads(text)
    assert {"number", "id", "tier", "data", "columns", "rows", "cells", "claims"} < set(content)
    assert content["generated_from"]["runs"] == 15
    keys = ["row", "column", "mean", "std", "n", "planned", "state", "published", "verdict", "runs"]
    assert all(list(cell) == keys for cell in content["cells"])
    keys = ["id", "text", "status", "figure", "tier"]
    assert all(list(claim) == keys for claim in content["claims"])
    places = [(cell["row"], cell["column"]) for cell in content["cells"]]
    rows, columns = content["rows"], content["columns"]
    assert places == [(row["id"], column["id"]) for row in rows for column in columns]
    luna = next(c for c in content["cells"] if (c["row"], c["column"]) == ("luna", "listops"))
    assert luna == {
        "row": "luna",
        "column": "listops",
        "mean": 38.0,
        "std": 1.0,
        "n": 3,
        "planned": 3,
        "state": "done",
        "published": {"mean": 37.1, "std": 0.3, "n": 3},
        "verdict": "reproduced",
        "runs": ["luna/listops/0", "luna/listops/1", "luna/listops/2"],
    }
    assert content["sources"] == {"luna/listops": "appendix"}


def test_json_bytes_depend_on_the_ledger_only(small):
    text = to_json(build(small.definition, "small", small.planned, small.records))
    runs = list(small.records)
    random.Random(0).shuffle(runs)
    shuffled = {run_id: dict(reversed(small.records[run_id].items())) for run_id in runs}
    assert to_json(build(small.definition, "small", small.planned, shuffled)) == text
    small.records[runs[0]]["seconds"] += 1
    assert to_json(build(small.definition, "small", small.planned, small.records)) != text
