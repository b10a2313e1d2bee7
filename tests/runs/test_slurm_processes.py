"""One run over two processes on the CPU (gloo), as SLURM would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sextant.errors import UserError
from sextant.runs import ledger, training
from sextant.runs.execute import execute
from sextant.runs.launch.distributed import share_of
from sextant.runs.plan import write_plan
from sextant.runs.store import RunFolder
from tests.runs.shared_line import shared_spec
from tests.toy import ROOT


def two_processes(plan, folder) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "sextant-toy", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.runs.shared_line", str(plan), str(folder)],
            env={**os.environ, **common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def stopping_after(step: int):
    """RunCallback's hook in a run that is stopped after a step."""
    hook = training.RunCallback.on_train_batch_end

    def stopping(callback, trainer, *arguments):
        hook(callback, trainer, *arguments)
        if trainer.global_step == step:
            raise training.Interrupted

    return stopping


def test_two_processes_go_on_from_a_checkpoint_and_end_where_one_does(
    context, tmp_path, monkeypatch
):
    parent = shared_spec(steps=10)
    execute(parent, context)
    child = shared_spec(seed=1, steps=60, parents={"start": parent})
    folder = tmp_path / "two"
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / parent.run_id).symlink_to(context.runs / parent.run_id)
    begun = replace(context, runs=folder / "runs", ledger=folder / "ledger")
    begun.trainer = {**context.trainer, "checkpoint_steps": 20}
    with monkeypatch.context() as patched:
        patched.setattr(training.RunCallback, "on_train_batch_end", stopping_after(20))
        with pytest.raises(training.Interrupted):
            execute(child, begun)
    processes = two_processes(write_plan([child], tmp_path / "plans", "toy"), folder)
    for process in processes:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    alone = execute(child, context)
    (together,) = ledger.read(folder / "ledger").values()
    assert together["run_id"] == alone["run_id"]
    assert together["scores"]["error"]["value"] == pytest.approx(
        alone["scores"]["error"]["value"], rel=1e-3, abs=1e-6
    )
    ours, theirs = (
        torch.load(RunFolder(runs / child.run_id).student)
        for runs in (folder / "runs", context.runs)
    )
    curve = RunFolder(folder / "runs" / child.run_id).curves.read_text().splitlines()
    assert [row.split(",")[0] for row in curve[1:]] == [*map(str, range(2, 21, 2)), "50", "60"]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    assert not list((folder / "runs" / child.run_id / "processes").iterdir())


def test_a_share_is_of_the_examples_alone():
    batch = {"x": torch.arange(6), "pair": (torch.arange(12).reshape(6, 2), 3), "weights": None}
    batch["table"] = torch.eye(4)
    shares = [share_of(batch, process, 3) for process in range(3)]
    assert torch.equal(torch.cat([share["x"] for share in shares]), batch["x"])
    assert shares[1]["pair"][0].tolist() == [[4, 5], [6, 7]]
    assert shares[1]["pair"][1] == 3
    assert torch.equal(shares[2]["table"], torch.eye(4))
    assert share_of(3.0, 0, 2) == 3.0
    with pytest.raises(UserError, match="6 examples cannot be shared equally by 4 processes"):
        share_of(batch, 0, 4)
