"""The live view: what it reads from run folders, what it prints, and the key that ends it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sextant.cli import main
from sextant.files import write_json
from sextant.runs.context import RunContext
from sextant.runs.execute import execute
from sextant.runs.lease import lease
from sextant.runs.store import open_folder
from sextant.runs.watching import Active, Pace, active, ended
from sextant.verbs.watch import sparkline
from tests.toy import ROOT, line_spec

TRAINER = {
    "accelerator": "cpu", "devices": 1, "checkpoint_seconds": 60, "checkpoint_steps": None,
    "log_every": 2,
}  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path / "runs"


def folder_of(runs: Path, seed: int, steps: int = 400):
    return open_folder(runs, line_spec(seed=seed, steps=steps))


def at_step(folder, step: int, losses: list[float], moment: float | None = None) -> None:
    state = {"step": step, "steps": 400, "metrics": {"loss": losses[-1], "accuracy": 0.5}}
    write_json(folder.state, state | {"time": time.time() if moment is None else moment})
    rows = [f"{number},{name},{value}\n" for number, value in enumerate(losses)
            for name, value in (("loss", value), ("accuracy", 0.5))]  # fmt: skip
    folder.curves.write_text("step,metric,value\n" + "".join(rows))


def printed(capsys, monkeypatch, width: int) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["watch", "--once"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    return text


def carry_out(runs: Path, steps: int) -> None:
    context = RunContext(ROOT, runs, runs.parent / "ledger", TRAINER)
    execute(line_spec(steps=steps, seconds=0.02), context)


def test_a_real_run_is_seen_while_it_trains_and_when_it_has_ended(runs):
    processes = multiprocessing.get_context("spawn")
    process = processes.Process(target=carry_out, args=(runs, 150))
    process.start()
    pace, seen = Pace(), []
    while process.is_alive():
        now = active(runs)
        pace.look(now)
        seen += [(run, pace.of(run), pace.left(run)) for run in now if run.seen]
        time.sleep(0.1)
    assert process.exitcode == 0
    run, measured, left = seen[-1]
    assert run.owner.startswith(f"process {process.pid} on ")
    assert (run.task, run.method, run.seed, run.steps) == ("toy/line", "toy/line", 0, 150)
    assert [entry.step for entry, *_ in seen] == sorted(entry.step for entry, *_ in seen)
    assert len(run.curve) > 10
    assert run.metrics.keys() == {"loss"}
    assert 1 < measured < 50
    assert 0 <= left < 10
    assert active(runs) == []
    (done,) = ended(runs, time.time() - 60)
    assert done.status == "done"
    assert done.said.startswith("error 0.")


@pytest.mark.parametrize("width", [80, 140])
def test_a_snapshot_names_who_runs_what_and_how_it_goes(runs, capsys, monkeypatch, width):
    training, waiting = folder_of(runs, 0), folder_of(runs, 1)
    with lease(training.path / "lease", False), lease(waiting.path / "lease", False):
        at_step(training, 100, [8.0, 4.0, 2.0, 1.0])
        text = printed(capsys, monkeypatch, width)
    assert text.startswith("2 running\n")
    for expected in (
        "toy/line",
        "seed 0",
        "seed 1",
        f"{os.getpid()} on ",
        "100/400 (25%)",
        "loss 1",
        "█▄▂▁",
        "no step yet",
    ):
        assert expected in text


def test_what_ended_says_its_score_or_why_it_failed(runs, capsys, monkeypatch, tmp_path):
    context = RunContext(ROOT, runs, tmp_path / "ledger", TRAINER)
    execute(line_spec(method="Solver"), context)
    execute(line_spec(seed=1, fails="error"), context)
    stopped = folder_of(runs, 2)
    with lease(stopped.path / "lease", False):
        at_step(stopped, 40, [1.0])
    old = folder_of(runs, 3)
    write_json(old.result, json.loads(next(runs.glob("*/result.json")).read_text()))
    os.utime(old.result, (time.time() - 3600,) * 2)
    text = printed(capsys, monkeypatch, 140)
    assert text.startswith("0 running · 1 done · 1 failed · 1 stopped in the last 10 min\n")
    assert "nothing runs here now" in text
    assert re.search(r"done +toy/line toy/solver seed 0 +error 0", text)
    assert re.search(r"failed +toy/line toy/line seed 1 +error: IndexError: list index out", text)
    assert "more lines" not in text
    assert re.search(r"stopped +toy/line toy/line seed 2 +at step 40 of 400", text)
    assert "seed 3" not in text


def test_the_state_of_an_earlier_attempt_is_not_taken_for_this_one(runs):
    folder = folder_of(runs, 0)
    at_step(folder, 300, [1.0], time.time() - 1000)
    os.utime(folder.spec, (time.time() - 1000,) * 2)
    with lease(folder.path / "lease", False):
        (run,) = active(runs)
    assert (run.step, run.seen, run.first_attempt) == (0, 0.0, False)


def test_a_job_on_another_host_is_seen_where_its_lock_is_not(runs):
    folder = folder_of(runs, 0)
    with lease(folder.path / "lease", False):
        pass
    at_step(folder, 40, [1.0])
    owner = {"job": "7_3", "host": "elsewhere", "since": time.time(), "step": 0}
    write_json(folder.path / "owner.json", owner)
    (run,) = active(runs)
    assert (run.owner, run.step) == ("job 7_3 on elsewhere", 40)
    assert ended(runs, time.time() - 60) == []
    # locks are seen on their own host, so there the file alone is what a killed job left
    write_json(folder.path / "owner.json", owner | {"host": socket.gethostname()})
    assert active(runs) == []
    assert [run.status for run in ended(runs, time.time() - 60)] == ["stopped"]
    write_json(folder.path / "owner.json", owner)
    write_json(folder.result, {})
    assert active(runs) == []


def test_a_damaged_state_is_looked_at_later(runs):
    folder = folder_of(runs, 0)
    folder.state.write_text('{"step": 1')
    with lease(folder.path / "lease", False):
        assert [run.step for run in active(runs)] == [0]


def test_pace_comes_from_this_attempt_alone():
    run = Active("a", "t/x", "m/y", 0, "process 1 on h", 1000.0, False, 500, 1000, 1010.0)
    pace = Pace()
    pace.look([run])
    assert pace.of(run) is None
    assert pace.left(run) is None
    first = replace(run, first_attempt=True, step=50)
    assert pace.of(first) == 5.0
    later = replace(run, step=520, seen=1020.0)
    pace.look([later])
    assert pace.of(later) == 2.0
    assert pace.left(later, now=1030.0) == 230.0


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 8, ""),
        ([1.0], 8, "▁"),
        ([0.0, 7.0], 8, "▁█"),
        ([3.0, 3.0, 3.0], 8, "▁▁▁"),
        ([0.0, 2.0, 6.0, 8.0], 2, "▁█"),
        ([0.0, float("nan"), 7.0, float("inf")], 8, "▁×█×"),
    ],
)
def test_a_sparkline_fits_its_width(values, width, bars):
    assert sparkline(values, width) == bars


@pytest.mark.parametrize("given", ["minutes=0", "minutes=soon"])
def test_minutes_are_a_whole_number(runs, capsys, given):
    assert main(["watch", given]) == 2
    assert "minutes must be a whole number of at least 1" in capsys.readouterr().err


def test_q_ends_the_live_view_and_gives_the_terminal_back(runs):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sextant.cli", "watch"],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(theirs)
    text, deadline = b"", time.monotonic() + 60
    while b"0 running" not in text and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.5)[0]:
            text += os.read(ours, 4096)
    os.write(ours, b"q")
    while True:
        try:
            more = os.read(ours, 4096)
        except OSError:
            break
        if not more:
            break
        text += more
    os.close(ours)
    assert process.wait(30) == 0
    assert b"0 running" in text
    assert b"\x1b[?1049h" in text
    assert b"\x1b[?1049l" in text
