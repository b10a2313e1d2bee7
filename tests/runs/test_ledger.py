from __future__ import annotations

import errno
import json
import multiprocessing
import os

import pytest

from sextant.errors import UserError
from sextant.runs import ledger


def record(run_id: str = "0" * 12, **changes):
    base = {
        "run_id": run_id, "task": "toy/line", "method": "toy/m", "tier": "smoke", "seed": 0,
        "status": "done", "scores": {}, "spec": {}, "parents": [], "provenance": {},
        "seconds": 1.0, "peak_memory_mb": 1.0,
    }  # fmt: skip
    return base | changes


def test_what_is_appended_is_read_and_the_last_line_counts(tmp_path):
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
        (lambda line: line[:40], r"toy.jsonl line 2 is cut off"),
        (lambda line: line[:-20] + "}\n", "line 2 is not valid JSON"),
        (lambda line: "what\n", "line 2 does not begin"),
        (lambda line: line.replace('"done"', '"good"'), "line 2 has status 'good'.*done, failed"),
        (lambda line: line.replace('"seed": 0, ', ""), "line 2 lacks the field 'seed'"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, damage, sentence):
    for number in range(3):
        ledger.append(tmp_path, record(f"{number:012d}"))
    path = tmp_path / "toy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + damage(lines[1]) + ("" if "cut" in sentence else lines[2]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=sentence):
        ledger.read(tmp_path)
    assert path.read_bytes() == before


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
