"""A line fitted by a mean over examples, which several processes may share."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from sextant.runs.context import RunContext
from sextant.runs.launch.job import carry_out_in_job
from tests.toy import ROOT, line_spec

TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "nodes": 1,
    "processes_per_node": 2,
    "checkpoint_seconds": float("inf"),
    "checkpoint_steps": 50,
    "log_every": 50,
}


class SharedLine(pl.LightningModule):
    """Least squares by Adam, without noise of its own; `seconds` make a step last."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def prepare(self, streams, parents, data) -> None:
        if "start" in parents:
            self.load_state_dict(parents["start"].load().state_dict())

    def training_step(self, batch, index):
        x, y = batch
        processes = int(os.environ.get("SLURM_NTASKS", "1"))
        assert self.trainer.world_size == processes
        assert len(x) == 16 // processes
        time.sleep(self.seconds)
        loss = ((self.network(x) - y) ** 2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


def shared_spec(seed: int = 0, steps: int = 40, parents=None, seconds: float = 0.0):
    spec = line_spec(seed, steps, parents)
    module = {"_target_": "tests.runs.shared_line.SharedLine", "seconds": seconds}
    settings = dict(spec.settings) | {"method": {"version": 1, "module": module}}
    return replace(spec, method="toy/sharedline", settings=settings, time_limit=600)


if __name__ == "__main__":
    plan, folder = Path(sys.argv[1]), Path(sys.argv[2])
    context = RunContext(ROOT, folder / "runs", folder / "ledger", TRAINER)
    carry_out_in_job(plan, 0, context, False)
