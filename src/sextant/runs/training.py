"""Training under Lightning so that an interrupted run ends as an undisturbed one does."""

from __future__ import annotations

import logging
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sextant.files import replace_file, write_json
from sextant.runs.curves import Curves
from sextant.runs.store import RunFolder
from sextant.runs.tensors import ReadOnce, load_checkpoint

Report = Callable[[int, int, Mapping[str, float]], None]


class Interrupted(BaseException):
    """The run was asked to stop; the same command resumes it from its last checkpoint."""


class OutOfTime(Exception):
    """The run used up its tier's time limit."""


class RunCallback(pl.Callback):
    """Checkpoints, stops on request, keeps the time limit, writes curves and progress.

    Args:
        folder: the run's folder.
        trainer_settings: checkpoint_seconds, checkpoint_steps (or None), log_every.
        time_limit: seconds of training over all attempts together, or None.
        report: told (step, steps, metrics) at most twice a second.
        stop: becomes true when the run is asked to stop.
        still_ours: raises once another process may have taken over the folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainer_settings: Mapping[str, Any],
        time_limit: float | None,
        report: Report,
        stop: StopRequest,
        still_ours: Callable[[], None],
    ) -> None:
        self.folder, self.time_limit, self.report, self.stop = folder, time_limit, report, stop
        self.still_ours = still_ours
        self.checkpoint_seconds = trainer_settings["checkpoint_seconds"]
        self.checkpoint_steps = trainer_settings.get("checkpoint_steps")
        self.log_every = trainer_settings["log_every"]
        self.seconds_before = 0.0
        self.metrics: dict[str, float] = {}
        self.curves = Curves(folder.curves)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "metrics": self.metrics, "curves": self.curves.text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds_before, self.metrics = state["seconds"], state["metrics"]
        self.curves.text = state["curves"]

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.started = self.last_checkpoint = self.last_report = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.curves.write()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step, now = trainer.global_step, time.monotonic()
        log = step % self.log_every == 0 or step == trainer.max_steps
        report = now - self.last_report > 0.5
        save = now - self.last_checkpoint > self.checkpoint_seconds or self.stop.requested
        save = save or bool(self.checkpoint_steps and step % self.checkpoint_steps == 0)
        if log or report or save:
            self.still_ours()
            # Lightning forgets at a resume what a student logged in earlier steps alone.
            self.metrics |= read_metrics(trainer)
        if log:
            self.curves.add(step, self.metrics)
        if report:
            self.last_report = now
            self.report(step, trainer.max_steps, self.metrics)
            told = {"step": step, "steps": trainer.max_steps, "metrics": self.metrics}
            write_json(self.folder.state, {**told, "time": time.time()})
        if save:
            replace_file(
                self.folder.checkpoint, partial(trainer.save_checkpoint, weights_only=False)
            )
            self.last_checkpoint = now
        if self.stop.requested and step < trainer.max_steps:
            raise Interrupted
        if self.time_limit is not None and self.seconds > self.time_limit:
            raise OutOfTime(f"over its limit of {self.time_limit:.0f} s at step {step}")


class StopRequest:
    """Set by SIGINT or SIGTERM while a run trains in the main thread."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        def request(signum: int, frame: object) -> None:
            self.requested = True

        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, request)
        except ValueError:
            pass  # not the main thread: whoever owns that thread stops the run
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def fit(
    student: pl.LightningModule,
    data: Any,
    folder: RunFolder,
    steps: int,
    trainer_settings: Mapping[str, Any],
    time_limit: float | None,
    report: Report,
    stop: StopRequest,
    logger: Any = None,
    still_ours: Callable[[], None] = lambda: None,
) -> float:
    """Trains for `steps` optimiser steps, from the checkpoint if there is one that can be read.

    Returns:
        Seconds of training, those before an interruption included.

    Raises:
        Interrupted: when asked to stop, after writing a checkpoint.
        OutOfTime: past the time limit.
    """
    checkpoint = load_checkpoint(folder.checkpoint)
    data.first_step = checkpoint["global_step"] if checkpoint else 0
    silence_lightning()
    processes = trainer_settings.get("nodes", 1) * trainer_settings.get("processes_per_node", 1)
    callback = RunCallback(folder, trainer_settings, time_limit, report, stop, still_ours)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=trainer_settings["accelerator"],
        devices=trainer_settings["devices"],
        callbacks=[callback],
        logger=logger or False,
        log_every_n_steps=trainer_settings["log_every"],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        plugins=[ReadOnce(checkpoint), *([OneProcess()] if processes == 1 else [])],
    )
    resume = folder.checkpoint if checkpoint else None
    del checkpoint  # Lightning lets go of it once it has been restored
    try:
        trainer.fit(student, datamodule=data, ckpt_path=resume, weights_only=True)
    except SystemExit as left:
        # Lightning leaves by itself where a signal comes between the end of a step and the next.
        if isinstance(left, SIGTERMException) or isinstance(left.__context__, KeyboardInterrupt):
            raise Interrupted from left
        raise
    if trainer.global_step != steps:
        raise RuntimeError(
            f"training ended at step {trainer.global_step} of {steps}; the task's data module "
            "gives too few batches"
        )
    return callback.seconds


class OneProcess(LightningEnvironment):
    """A run of one process, whatever an allocation around it (SLURM, torchrun) says of others."""

    def world_size(self) -> int:
        return 1

    def global_rank(self) -> int:
        return 0

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return 0


def silence_lightning() -> None:
    """Keeps Lightning's advertisements and its remarks on intended choices out of the log."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in (
        ".*module\\(s\\) in eval mode.*",
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=remark)


def seed_initialisation(seed: int) -> None:
    """Seeds what draws without a stream of its own: the initial weights."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def read_metrics(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def forget_peak_memory(device: str) -> None:
    """Begins to measure: a worker carries out many runs."""
    if device == "gpu" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: then the process's peak is told
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: str) -> float:
    """The largest memory in use since it was last forgotten: of the GPU for GPU runs, of this
    process otherwise."""
    if device == "gpu":
        return torch.cuda.max_memory_allocated() / 2**20
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def use_one_thread() -> None:
    """A run keeps to one thread: cores are shared by processes, and sums come out the same bits
    whoever carries it out."""
    torch.set_num_threads(1)
