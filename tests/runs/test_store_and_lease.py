from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time

import pytest

from sextant.errors import UserError
from sextant.runs.lease import Taken, holder, lease
from sextant.runs.store import replace_file, write_json


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})

    def broken(beside):
        beside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, broken)
    assert path.read_text() == '{\n "step": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, 1)

    def full(beside):
        raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(UserError, match=r"cannot write .*state\.json: the disk is full"):
        replace_file(path, full)
    assert path.read_text() == "1\n"


def _hold(path, ready):
    with lease(path, wait=False):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other_process(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lease", ready))
    process.start()
    assert ready.wait(10)
    yield process
    if process.is_alive():
        process.kill()
    process.join()


def test_a_second_process_leaves_and_learns_who_works(tmp_path, other_process):
    with (
        pytest.raises(Taken, match=f"process {other_process.pid} on"),
        lease(tmp_path / "lease", wait=False),
    ):
        pytest.fail("two processes hold one lease")
    assert str(other_process.pid) in holder(tmp_path / "lease")


def test_a_killed_owner_frees_the_lease_for_who_waits(tmp_path, other_process):
    told = []

    def on_wait(owner):
        told.append(owner)
        os.kill(other_process.pid, signal.SIGKILL)

    with lease(tmp_path / "lease", wait=True, on_wait=on_wait, poll=0.01):
        assert told
    assert holder(tmp_path / "lease") is None
