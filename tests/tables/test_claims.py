from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.tables.cells import Cell
from sextant.tables.claims import combine, compare, corrected, decide, differences
from sextant.tables.schema import Column
from sextant.tables.statistics import Interval
from sextant.tables.table import build

LOWER = Column(key="c", label="C", better="lower", digits=3)
HIGHER = Column(key="c", label="C", better="higher", digits=3)
BETTER = ("better_than", LOWER, 0.0)
scores = st.lists(st.floats(-10, 10), min_size=2, max_size=6)
pairs = st.integers(2, 6).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-10, 10), min_size=n, max_size=n)] * 2)
)


def cell(name, values, planned=None, failures=None):
    failures = failures or {}
    values = values if isinstance(values, dict) else dict(enumerate(values))
    planned = planned or len(values) + len(failures)
    missing = tuple(s for s in range(planned) if s not in values and s not in failures)
    return Cell(name, "c", planned, values, failures, missing)


@given(pairs)
def test_swapping_the_sides_swaps_the_answer(pair):
    left, right = cell("a", pair[0]), cell("b", pair[1])
    there = compare(left, right, "better_than", LOWER, 0.0).status
    back = compare(right, left, "better_than", LOWER, 0.0).status
    assert {"holds": "fails", "fails": "holds", "inconclusive": "inconclusive"}[there] == back
    mirrored = compare(left, right, "better_than", HIGHER, 0.0).status
    assert mirrored == back


@given(pairs, st.floats(1e-3, 5), st.floats(0, 5))
def test_a_wider_margin_never_speaks_against_a_claim(pair, margin, more):
    order = ["fails", "inconclusive", "holds"]
    left, right = cell("a", pair[0]), cell("b", pair[1])
    narrow = compare(left, right, "at_least_as_good_as", LOWER, margin).status
    wide = compare(left, right, "at_least_as_good_as", LOWER, margin + more).status
    assert order.index(wide) >= order.index(narrow)


@given(pairs)
def test_being_better_implies_being_as_good(pair):
    left, right = cell("a", pair[0]), cell("b", pair[1])
    if compare(left, right, "better_than", LOWER, 0.0).status == "holds":
        assert compare(left, right, "at_least_as_good_as", LOWER, 0.01).status == "holds"


def test_differences_are_paired_by_seed_not_by_position():
    left = cell("a", {0: 1.0, 1: 2.0, 2: 3.0})
    right = cell("b", {2: 3.5, 1: 2.75, 0: 1.5, 7: 99.0})
    assert differences(left, right, LOWER).values == [0.5, 0.75, 0.5]


def test_with_a_target_the_nearer_is_better_from_either_side():
    guessing = replace(LOWER, target=50.0)
    near, below = cell("near", [51.0, 52.0, 51.5]), cell("below", [40.0, 41.0, 39.0])
    assert compare(near, below, "better_than", guessing, 0).status == "holds"
    assert compare(near, below, "better_than", LOWER, 0).status == "fails"
    assert compare(below, near, "better_than", guessing, 0).status == "fails"
    either = differences(cell("a", [49.0, 48.0]), cell("b", [51.0, 52.0]), guessing)
    assert either.values == [0.0, 0.0]


def test_against_a_number():
    assert compare(cell("a", [0.1, 0.11, 0.12]), 0.5, "better_than", LOWER, 0).status == "holds"
    assert compare(cell("a", [0.1, 0.11, 0.12]), 0.5, "better_than", HIGHER, 0).status == "fails"


@pytest.mark.parametrize(
    ("interval", "relation", "expected"),
    [
        (Interval(0.5, 0.1, 0.9, 5), "better_than", "holds"),
        (Interval(0.5, -0.1, 1.1, 5), "better_than", "inconclusive"),
        (Interval(-0.5, -0.9, -0.1, 5), "better_than", "fails"),
        (Interval(0.0, 0.0, 0.0, 5), "better_than", "inconclusive"),
        (Interval(-0.05, -0.08, -0.02, 5), "at_least_as_good_as", "holds"),
        (Interval(-0.05, -0.15, 0.05, 5), "at_least_as_good_as", "inconclusive"),
        (Interval(-0.3, -0.4, -0.2, 5), "at_least_as_good_as", "fails"),
        (Interval(0.0, 0.0, 0.0, 5), "at_least_as_good_as", "holds"),
    ],
)
def test_decisions(interval, relation, expected):
    assert decide(interval, relation, 0.1) == expected


def test_fewer_than_two_common_seeds_cannot_decide():
    result = compare(cell("a", {0: 0.1}), cell("b", {0: 9.0}), "better_than", LOWER, 0.0)
    assert (result.status, result.interval) == ("inconclusive", None)
    assert result.remark == "1 seed in common, at least 2 needed"


def test_seeds_that_share_what_matters_are_one_observation():
    left, right = cell("a", [1.0, 5.0, 2.0, 6.0]), cell("b", [0.0] * 4)
    assert differences(left, right, HIGHER, observations=2).values == [1.5, 5.5]
    alone = compare(left, right, "better_than", HIGHER, 0.0, observations=1)
    assert (alone.status, alone.interval) == ("inconclusive", None)
    assert alone.remark == "1 independent observation in common, at least 2 needed"


def test_none_of_few_pictures_is_not_known_to_be_none():
    none = replace(cell("a", [0.0] * 5), counts=dict.fromkeys(range(5), (0, 10)))
    close = compare(none, 3.0, "better_than", LOWER, 0.0)
    assert close.status == "inconclusive"  # 0 of 50 leaves up to 5.8 %
    assert close.interval.lower == pytest.approx(3 - 100 * (1 - 0.05 ** (1 / 50)))
    assert compare(none, 6.0, "better_than", LOWER, 0.0).status == "holds"
    assert compare(cell("a", [0.0] * 5), 3.0, "better_than", LOWER, 0.0).status == "holds"


def test_runs_that_learned_nothing_decide_nothing():
    left, right = cell("a", [0.1, 0.11, 0.12]), cell("b", [0.5, 0.51, 0.55])
    assert compare(left, right, "better_than", LOWER, 0.0).status == "holds"
    marked = replace(right, guarded=(1,))
    for relation in (LOWER, HIGHER):
        result = compare(left, marked, "better_than", relation, 0.0)
        assert (result.status, result.remark) == ("inconclusive", "runs marked ‡: b: 1")


def test_one_of_many_pairs_refutes_only_at_the_level_of_all():
    barely = compare(cell("a", [1.0, 1.3, 1.6]), cell("b", [0.8, 0.8, 1.2]), *BETTER)
    clearly = compare(cell("a", [1.0, 1.31, 1.6]), cell("b", [0.0, 0.3, 0.6]), *BETTER)
    assert barely.status == clearly.status == "fails"
    assert 0.01 < barely.chance < 0.05
    assert clearly.chance < 0.001
    fine = compare(cell("a", [0.1, 0.2, 0.15]), cell("b", [0.9, 0.8, 1.2]), *BETTER)
    assert [pair.status for pair in corrected([barely])] == ["fails"]
    many = corrected([barely, clearly, *[fine] * 8])
    assert [pair.status for pair in many[:3]] == ["inconclusive", "fails", "holds"]
    assert many[0].remark == "not below 5 % over 10 pairs"


def test_no_data_is_not_run():
    empty = cell("b", {}, planned=3)
    result = compare(cell("a", [0.1, 0.2, 0.3]), empty, "better_than", LOWER, 0.0)
    assert (result.status, result.remark) == ("not_run", "b: 3/3 missing")


def test_a_side_that_always_failed_is_inconclusive_not_unrun():
    failed = cell("b", {}, failures={0: "oom", 1: "oom"})
    result = compare(cell("a", [0.1, 0.2]), failed, "better_than", LOWER, 0.0)
    assert result.status == "inconclusive"
    assert "b: 2/2 failed (oom)" in result.remark


@pytest.mark.parametrize("hole", ["failed", "missing"])
def test_holes_refute_but_never_confirm(hole):
    good, bad = {0: 0.10, 1: 0.11, 2: 0.12}, [0.5, 0.51, 0.53, 0.5]
    failures = {3: "diverged"} if hole == "failed" else {}
    holed = cell("a", good, planned=4, failures=failures)
    result = compare(holed, cell("b", bad), "better_than", LOWER, 0.0)
    assert (result.status, result.interval.lower > 0) == ("inconclusive", True)
    assert f"a: 1/4 {hole}" in result.remark
    assert compare(holed, cell("b", bad), "better_than", HIGHER, 0.0).status == "fails"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "fails", "inconclusive"], "fails"),
        (["holds", "inconclusive"], "inconclusive"),
        (["holds", "not_run"], "inconclusive"),
        (["not_run", "not_run"], "not_run"),
        (["not_run", "fails"], "fails"),
    ],
)
def test_many_pairs(statuses, expected):
    assert combine(statuses) == expected


def value(row, column, seed, at):
    base = {"mean_flow": 0.5, "ot_exact": 0.3, "floor": 0.01}[row] / at
    return base + 0.01 * ((seed * (2 if row == "ot_exact" else 3)) % 5)


def test_claims_of_a_table(plane, ledger):
    made = ledger(plane, "small").fill(value)
    better, enough = build(plane, "small", made.planned, made.records).claims
    assert (better.id, better.status, better.tier) == ("ot_better", "holds", "small")
    assert better.figure.startswith(
        "2 pairs: 2 holds; the worst: exact OT (NFE 1) against Mean Flow (NFE 1) on N(0,I) to 8 "
    )
    assert "is better by 0.2000, one-sided 95 % bounds 0.1" in better.figure
    assert better.figure.endswith("5 seeds.")
    # at two steps Mean Flow has 0.25 against our 0.3: worse by 0.05, beyond the margin of 0.02
    assert enough.status in ("fails", "inconclusive")
    assert "is worse by 0.0500" in enough.figure
    assert "margin 0.02" in enough.figure


def test_one_seed_cannot_hold(plane, ledger):
    made = ledger(plane, "smoke").fill(value)
    assert {c.status for c in build(plane, "smoke", made.planned, made.records).claims} == {
        "inconclusive"
    }


def test_an_empty_ledger_has_no_answers(plane, ledger):
    claims = build(plane, "small", ledger(plane, "small").planned, {}).claims
    assert [claim.status for claim in claims] == ["not_run", "not_run"]
    assert claims[0].figure == "None of 2 pairs was run."


def test_a_failed_baseline_seed_is_named_in_the_figure(plane, ledger):
    made = ledger(plane, "small").fill(value).failed("mean_flow", "moons", 2, "oom")
    better = build(plane, "small", made.planned, made.records).claims[0]
    assert better.status == "inconclusive"
    assert better.figure.startswith("2 pairs: 1 holds, 1 inconclusive; the worst: ")
    assert "two moons" in better.figure
    assert "mean_flow@1: 1/5 failed (oom)" in better.figure


def test_every_row_leaves_out_reference_rows_and_the_compared_row(define_plane):
    def change(content):
        content["claims"]["ot_better"]["every"]["rows"] = "all"

    claim = define_plane(change).claims[0]
    assert claim.rows == ("ot_exact@1", "mean_flow@2", "ot_exact@2")


def test_stale_runs_are_named(plane, ledger):
    made = ledger(plane, "small").fill(value)
    table = build(plane, "small", made.planned, made.records, {"ot_exact/moons/1"})
    assert any("older than the code" in c.remark for c in table.claims[0].comparisons)


def test_averages_are_compared_seed_by_seed(arena, ledger):
    made = ledger(arena, "small").fill(
        lambda row, column, seed, at: (
            {"luna": 50.0 + 0.1 * (seed % 2), "softmax": 49.0, "linear": 1.0}[row] + 9 * seed
        )
    )
    claim = build(arena, "small", made.planned, made.records).claims[0]
    # seeds spread by 9 points, the paired differences by a tenth of one
    assert claim.status == "holds"
    assert "by 1.03, one-sided 95 % bounds 0.94 to 1.13, 3 seeds" in claim.figure
