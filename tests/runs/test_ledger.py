from __future__ import annotations

import errno
import json
import multiprocessing
import os

import pytest

from sextant import files
from sextant.errors import UserError
from sextant.runs import ledger


def record(run_id: str = "0" * 12, **changes):
    base = {
        "run_id": run_id, "task": "toy/line", "method": "toy/m", "tier": "smoke", "seed": 0,
        "status": "done", "scores": {}, "spec": {}, "parents": [], "provenance": {},
        "seconds": 1.0, "peak_memory_mb": 1.0,
    }  # fmt: skip
    return base | changes


def test_what_is_appended_is_read(tmp_path):
    ledger.append(tmp_path, record(seconds=1.0))
    ledger.append(tmp_path, record("1" * 12, task="other/task"))
    ledger.append(tmp_path, record(seconds=2.0))
    found = ledger.read(tmp_path)
    assert found["0" * 12]["seconds"] == 2.0
    assert {path.name for path in tmp_path.iterdir()} == {"toy.jsonl", "other.jsonl"}
    assert list(ledger.read(tmp_path, ["1" * 12])) == ["1" * 12]


def _append_many(folder, first):
    for number in range(first, first + 50):
        ledger.append(folder, record(f"{number:012d}", spec={"filler": "x" * 5000}))


def test_writers_side_by_side_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(tmp_path, n)) for n in (0, 50, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ledger.read(tmp_path)) == 150


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda line: line[:40] + "\n", "toy.jsonl line 2 is cut off; it is left out"),
        (lambda line: line[:-20] + "}\n", "line 2 is not valid JSON"),
        (lambda line: line[:12] + "[" * 10**5 + "}\n", "line 2 is not valid JSON"),
        (lambda line: "<<<<<<< HEAD\n", "line 2 does not begin"),
        (lambda line: line.replace('"done"', '"good"'), "has status 'good' (allowed: done, failed"),
        (lambda line: line.replace('"seed": 0, ', ""), "line 2 lacks the field 'seed'"),
        (lambda line: line.replace('"seed": 0', '"seed": "abc"'), "has the seed 'abc', which is"),
        (lambda line: line.replace('"provenance": {}', '"provenance": null'), "has provenance"),
        (lambda line: line.replace('"seconds": 1.0', '"seconds": "1 s"'), "has seconds '1 s'"),
        (lambda line: line.replace('"scores": {}', '"scores": [1]'), "has scores that are no"),
        (lambda line: line.replace('"parents": []', '"parents": [3]'), "has parents [3], which"),
        (lambda line: line.replace('"toy/line"', '"../x"'), "names the task '../x'"),
        (lambda line: line.replace("}\n", ', "run_id": "aaaaaaaaaaaa"}\n'), "two run ids"),
    ],
)
def test_a_bad_line_is_named_and_left_out(tmp_path, damage, sentence, capsys):
    for number in range(3):
        ledger.append(tmp_path, record(f"{number:012d}"))
    path = tmp_path / "toy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + damage(lines[1]) + lines[2])
    before = path.read_bytes()
    assert list(ledger.read(tmp_path)) == ["0" * 12, f"{2:012d}"]
    assert sentence in capsys.readouterr().err
    assert path.read_bytes() == before


def score(value: object = 0.5, **changes):
    return {"error": {"value": value, "n": 3, "better": "lower", "standard_error": None} | changes}


@pytest.mark.parametrize(
    "scores",
    [
        score("0.5"), score(None), score(float("nan")), score(10**400), score(True), score(n=0),
        score(n=2.5), score(better="more"), score(standard_error=-1), score(standard_error="x"),
        {"error": 0.5}, {"err\x1b[2Jor": score()["error"]},
    ],
)  # fmt: skip
def test_a_score_that_is_none_is_no_line(tmp_path, scores):
    ledger.append(tmp_path, record())
    path = tmp_path / "toy.jsonl"
    path.write_text(json.dumps(record(scores=scores)) + "\n" + path.read_text())
    assert ledger.read(tmp_path)["0" * 12]["scores"] == {}


@pytest.mark.parametrize(
    "provenance",
    [{"commit": 5}, {"packages": "torch"}, {"data": []}, {"hardware": 3}, {"code": 7}],
)
def test_a_provenance_of_other_types_is_no_line(tmp_path, provenance):
    with pytest.raises(UserError, match="has provenance"):
        ledger.append(tmp_path, record(provenance=provenance))


def test_a_line_after_a_cut_off_one_stands_alone(tmp_path):
    ledger.append(tmp_path, record())
    path = tmp_path / "toy.jsonl"
    path.write_text(path.read_text()[:-30])
    ledger.append(tmp_path, record("1" * 12))
    assert list(ledger.read(tmp_path)) == ["1" * 12]


def test_a_last_line_without_its_end_counts(tmp_path):
    ledger.append(tmp_path, record())
    path = tmp_path / "toy.jsonl"
    path.write_text(path.read_text().rstrip())
    ledger.append(tmp_path, record("1" * 12))
    assert list(ledger.read(tmp_path)) == ["0" * 12, "1" * 12]


def test_a_file_that_git_replaces_gets_the_line(tmp_path, monkeypatch):
    ledger.append(tmp_path, record())
    path = tmp_path / "toy.jsonl"
    lock, replaced = files.lock, []

    def replacing(descriptor, wait=True):
        if not replaced:
            replaced.append(path.read_text())
            path.unlink()
            path.write_text(replaced[0])
        return lock(descriptor, wait)

    monkeypatch.setattr(files, "lock", replacing)
    ledger.append(tmp_path, record("1" * 12))
    assert list(ledger.read(tmp_path)) == ["0" * 12, "1" * 12]


FAILED = {"status": "failed", "reason": "oom"}


@pytest.mark.parametrize(
    ("one", "other", "counts"),
    [
        (record(seconds=1.0), record(**FAILED), {"status": "done"}),
        (record(ended="2025-01-01T00:00:00+00:00"), record(seconds=7.0, scores=score(),
         ended="2026-01-01T00:00:00+00:00"), {"seconds": 7.0}),
        (record(scores=score(), seconds=2.0), record(scores=score(), ended="2024"),
         {"ended": "2024"}),
        (record(**FAILED), record(status="failed", reason="error", ended="2024"),
         {"reason": "error"}),
    ],
)  # fmt: skip
def test_merged_branches_give_the_same_line_in_either_direction(tmp_path, one, other, counts):
    for number, lines in enumerate(([one, other], [other, one])):
        for line in lines:
            ledger.append(tmp_path / str(number), line)
    read = [ledger.read(tmp_path / number)["0" * 12] for number in "01"]
    assert read[0] == read[1]
    assert read[0] == read[0] | counts
    told = [ledger.summaries(tmp_path / number)["0" * 12] for number in "01"]
    assert told == [ledger.Summary.of(read[0])] * 2


def test_differing_scores_are_reported(tmp_path, capsys):
    run_id = "d" * 12
    for value in (0.25, 0.75, 0.5):
        ledger.append(tmp_path, record(run_id, scores=score(value)))
    first = ledger.read(tmp_path)[run_id]
    said = capsys.readouterr().err
    assert f"differing scores of run {run_id} (toy/line toy/m seed 0)" in said
    path = tmp_path / "toy.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert ledger.read(tmp_path)[run_id] == first


def test_what_a_line_says_commands_no_terminal(tmp_path):
    message = "\x1b]0;title\x07\x1b[31mred\x1b[0m\r\nand \u202etxet\x00 \ud800"
    line = record(message=message, provenance={"commit": "ab\x1b[2Jc", "data": {"x\x9b1m": "y"}})
    ledger.append(tmp_path, line | FAILED)
    found = ledger.read(tmp_path)["0" * 12]
    assert found["message"] == "red and txet"
    assert found["provenance"] == {"commit": "abc", "data": {"x": "y"}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "fine"}, "status 'fine'"),
        ({"status": "failed"}, "reason None.*diverged, oom, timeout, error"),
    ],
)
def test_a_wrong_record_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        ledger.append(tmp_path, record(**changes))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    ledger.append(tmp_path, record())
    before = (tmp_path / "toy.jsonl").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        ledger.append(tmp_path, record("1" * 12))
    assert (tmp_path / "toy.jsonl").read_bytes() == before


def test_lines_are_json_with_the_agreed_fields(tmp_path):
    ledger.append(tmp_path, record())
    line = json.loads((tmp_path / "toy.jsonl").read_text())
    assert tuple(line) == ledger.FIELDS


def test_a_summary_says_what_a_run_is_and_how_it_ended(tmp_path):
    ledger.append(tmp_path, record("a" * 12))
    ledger.append(tmp_path, record("b" * 12, status="failed", reason="oom", scores={}))
    ledger.append(tmp_path, record("c" * 12, status="failed", reason="oom", scores={}))
    ledger.append(tmp_path, record("c" * 12, seed=3))
    found = ledger.summaries(tmp_path)
    assert found == {key: ledger.Summary.of(line) for key, line in ledger.read(tmp_path).items()}
    assert [run.outcome for run in found.values()] == ["done", "failed (oom)", "done"]
    assert found["c" * 12].seed == 3
