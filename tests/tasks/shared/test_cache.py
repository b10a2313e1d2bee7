"""Generated data on disk, and blocks drawn on several processes."""

import json
import os
import subprocess
import sys
import textwrap
import time
from itertools import islice

import numpy as np
import pytest

from tasks.shared import cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path))
    return tmp_path / "data" / "generated"


def counted(calls):
    def make():
        calls.append(1)
        return {"values": np.arange(10), "labels": np.ones(3, np.uint8)}

    return make


def square(number):
    return number * number


def test_arrays_are_made_once_for_every_law(place):
    calls = []
    first, second = (cache.cached("toys", {"seed": 1}, counted(calls)) for _ in range(2))
    assert len(calls) == 1
    assert np.array_equal(second.arrays["values"], np.arange(10))
    assert second.arrays["labels"].dtype == np.uint8
    assert first.content == second.content
    assert not second.arrays["values"].flags.writeable
    other = cache.cached("toys", {"seed": 2}, counted(calls))
    assert len(calls) == 2
    assert other.folder != first.folder
    assert other.content == first.content, "equal arrays have equal digits"
    described = json.loads((first.folder / "description.json").read_text())
    assert described["law"] == {"seed": 1}
    assert sorted(path.name for path in place.iterdir() if path.suffix != ".lock") == sorted(
        (first.folder.name, other.folder.name)
    )


@pytest.mark.parametrize("damage", ["values.npy", "description.json"])
def test_damaged_arrays_are_made_again(place, damage):
    calls = []
    found = cache.cached("toys", {}, counted(calls))
    (found.folder / damage).write_bytes(b"\0" * 200)
    again = cache.cached("toys", {}, counted(calls))
    assert len(calls) == 2
    assert np.array_equal(again.arrays["values"], np.arange(10))
    (again.folder / "labels.npy").unlink()
    cache.cached("toys", {}, counted(calls))
    assert len(calls) == 3


def test_a_failure_leaves_nothing_and_leftovers_go(place):
    def fail():
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        cache.cached("toys", {}, fail)
    assert [path.name for path in place.iterdir() if path.is_dir()] == []
    found = cache.cached("toys", {}, counted([]))
    (place / f".{found.folder.name}.k1lled" / "files").mkdir(parents=True)
    (found.folder / "values.npy").unlink()
    cache.cached("toys", {}, counted([]))
    assert [path.name for path in place.iterdir() if path.is_dir()] == [found.folder.name]


def test_two_processes_make_the_arrays_once(tmp_path):
    program = textwrap.dedent(
        f"""
        import time, numpy as np
        from tasks.shared import cache
        def make():
            with open({str(tmp_path / "calls")!r}, "a") as calls:
                calls.write("x")
            time.sleep(0.3)
            return {{"values": np.arange(4)}}
        print(cache.cached("toys", {{"a": 1}}, make).content)
        """
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert len(printed) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_blocks_come_in_order_whatever_the_workers(monkeypatch):
    monkeypatch.setattr(cache, "SERIAL_SECONDS", 0.0)
    for workers in (1, 2):
        drawn = cache.blocks(square, workers)
        assert list(islice(drawn, 20)) == [number * number for number in range(20)]
        drawn.close()
    with pytest.raises(ValueError, match="workers must be at least 1"):
        next(cache.blocks(square, 0))


def where(number):
    time.sleep(0.1)
    return number, os.getpid()


def test_slow_work_moves_to_other_processes(monkeypatch):
    monkeypatch.setattr(cache, "SERIAL_SECONDS", 0.15)
    drawn = cache.blocks(where, 2)
    found = list(islice(drawn, 14))
    drawn.close()
    assert [number for number, _ in found] == list(range(14))
    own = [process == os.getpid() for _, process in found]
    assert own[0]
    assert not any(own[4:])


def test_only_slow_work_shows_a_bar(monkeypatch, capsys):
    with cache.progress("drawing", 10) as done:
        done(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "QUIET_SECONDS", -1.0)
    with cache.progress("drawing", 10) as done:
        done(10)
        done(12)
    assert "drawing" in (shown := capsys.readouterr().err)
    assert "10/10" in shown


def test_a_worker_needs_no_torch():
    program = (
        "import sys, tasks.lra.listops, tasks.lra.pathfinder, tasks.lra.snakes;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
