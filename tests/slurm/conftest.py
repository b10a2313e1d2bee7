from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextant.runs.context import RunContext
from tests.slurm import one_machine
from tests.slurm.launched import slurm, wait_for
from tests.toy import ROOT


@pytest.fixture(scope="session")
def one_machine_cluster() -> Iterator[None]:
    """A SLURM of this machine while the tests last; where its programs lack they are skipped."""
    lacking = one_machine.missing()
    if lacking:
        pytest.skip(
            f"not run, because this machine lacks {', '.join(lacking)} "
            "(Debian: apt-get install slurm-wlm munge)"
        )
    # Not pytest's own folder: a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    kept = dict(os.environ)
    os.environ |= one_machine.start(folder)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["PYTHONPATH"] = str(ROOT)  # jobs import tests.toy
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        one_machine.stop(folder)
        os.environ.clear()
        os.environ.update(kept)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(one_machine_cluster) -> Iterator[None]:
    """The cluster with an empty queue, before and after."""
    yield
    slurm("scancel", "--quiet", "--user", str(os.getuid()))
    wait_for(lambda: not slurm("squeue", "-h"), "the queue to empty")


@pytest.fixture
def context(tmp_path) -> RunContext:
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "checkpoint_seconds": 60,
        "checkpoint_steps": None,
        "log_every": 50,
    }
    return RunContext(ROOT, tmp_path / "runs", tmp_path / "ledger", trainer)
