from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time

import pytest

from sextant.errors import UserError
from sextant.files import disk_errors, replace_file, write_json
from sextant.runs.lease import Taken, holder, lease, owner_path


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


def test_a_deleted_lease_lets_no_second_process_in(tmp_path):
    with lease(tmp_path / "lease", wait=False) as held:
        held.check()
        (tmp_path / "lease").unlink()
        with (
            pytest.raises(Taken, match=f"process {os.getpid()} on"),
            lease(tmp_path / "lease", wait=False),
        ):
            pytest.fail("two writers")
        with pytest.raises(UserError, match="deleted or taken over"):
            held.check()
    with lease(tmp_path / "lease", wait=False) as held:
        held.check()
    assert not owner_path(tmp_path / "lease").exists()


def test_where_there_are_no_locks_the_owner_file_decides(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with (
        lease(tmp_path / "lease", wait=False),
        pytest.raises(Taken),
        lease(tmp_path / "lease", wait=False),
    ):
        pytest.fail("two writers")
    with lease(tmp_path / "lease", wait=False):
        pass


def test_a_process_of_another_machine_is_believed_while_it_is_heard_of(tmp_path):
    path = owner_path(tmp_path / "lease")
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "boot": "x", "processes": "y"}))
    with (
        pytest.raises(Taken, match="process 1 on elsewhere"),
        lease(tmp_path / "lease", wait=False),
    ):
        pytest.fail("two writers")
    os.utime(path, (time.time() - 600, time.time() - 600))
    with lease(tmp_path / "lease", wait=False):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_what_a_lease_of_this_machine_left_is_taken_over_at_once(tmp_path):
    with lease(tmp_path / "lease", wait=False):
        content = json.loads(owner_path(tmp_path / "lease").read_text())
    owner_path(tmp_path / "lease").write_text(json.dumps(content | {"started": "1"}))
    with lease(tmp_path / "lease", wait=False) as held:
        held.check()


def test_the_owner_of_a_lease_is_heard_of_as_long_as_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("sextant.runs.lease.BEAT", 0.01)
    path = owner_path(tmp_path / "lease")
    with lease(tmp_path / "lease", wait=False):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not path.exists()


def test_a_sentence_is_not_wrapped_in_another(tmp_path):
    class NotHere(UserError, FileNotFoundError):
        """A data set that is missing."""

    with pytest.raises(NotHere, match=r"^dots is not here$"), disk_errors(tmp_path):
        raise NotHere("dots is not here")
    with pytest.raises(UserError, match="cannot write"), disk_errors(tmp_path):
        raise FileNotFoundError(2, "No such file or directory")
