"""A task and a method small enough to train in a second, with switches for every way to fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from sextant.contracts import Examination, Score, StepBatches
from sextant.runs.spec import RunSpec

ROOT = Path(__file__).parents[1]


class LineData(pl.LightningDataModule):
    """Points of a noisy line."""

    def __init__(self, steps: int, slope: float = 2.0) -> None:
        super().__init__()
        self.steps, self.slope, self.first_step = steps, slope, 0

    def prepare(self, streams, parents) -> None:
        self.streams, self.parents = streams, parents

    def draw(self, step: int):
        generator = self.streams.generator("points", step)
        x = torch.randn(16, 1, generator=generator)
        return x, self.slope * x + 0.1 * torch.randn(16, 1, generator=generator)

    def train_dataloader(self):
        return DataLoader(StepBatches(self.draw, self.first_step, self.steps), batch_size=None)

    def fingerprints(self):
        return {"line": f"slope {self.slope}"}


class Line(pl.LightningModule):
    """Least squares by Adam; `fails` says how it goes wrong, at step `at`."""

    def __init__(self, fails: str | None = None, at: int = 3, seconds: float = 0.0) -> None:
        super().__init__()
        self.fails, self.at, self.seconds = fails, at, seconds
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.0), nn.Linear(8, 1))

    def prepare(self, streams, parents, data) -> None:
        self.streams = streams
        if "start" in parents:
            self.load_state_dict(parents["start"].load().state_dict())

    def training_step(self, batch, index):
        x, y = batch
        if self.global_step == self.at:
            self._fail()
        time.sleep(self.seconds)
        noise = torch.randn(16, 1, generator=self.streams.generator("noise", self.global_step))
        loss = ((self.network(x) + 0.01 * noise - y) ** 2).mean()
        self.log("loss", loss)
        return loss

    def _fail(self) -> None:
        if self.fails == "diverge":
            raise FloatingPointError("the loss is nan: diverged at step 3")
        if self.fails == "memory":
            raise MemoryError("no room")
        if self.fails == "error":
            raise IndexError("list index out of range\nmore lines")
        if self.fails == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


class Solver:
    """A student that needs no training."""

    def prepare(self, streams, parents, data) -> None:
        self.slope = data.slope

    def network(self, x):
        return self.slope * x


class LineExam:
    """Squared error on fixed points."""

    def examine(self, student, data, streams, parents) -> Examination:
        x = torch.linspace(-1, 1, 21)[:, None]
        with torch.no_grad():
            error = ((student.network(x) - data.slope * x) ** 2).mean()
        picture = torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()
        return Examination(
            {"error": Score(float(error), 21, "lower")}, {"x": x.numpy()}, {"square": picture}
        )


def line_spec(seed: int = 0, steps: int = 8, parents=None, method="Line", **module) -> RunSpec:
    """A run of the toy."""
    settings = {
        "task": {
            "version": 1,
            "data": {"_target_": "tests.toy.LineData", "steps": steps},
            "exam": {"_target_": "tests.toy.LineExam"},
        },
        "method": {"version": 1, "module": {"_target_": f"tests.toy.{method}", **module}},
        "budget": {"steps": steps},
        "tier": {"name": "smoke"},
        "seed": seed,
    }
    limit = module.pop("time_limit", 60)
    settings["method"]["module"].pop("time_limit", None)
    return RunSpec(
        "toy/line", f"toy/{method.lower()}", "smoke", seed, settings, parents or {}, limit
    )
