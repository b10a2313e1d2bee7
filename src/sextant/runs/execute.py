"""Carries out one run: the student learns, the exam asks, the ledger gets its line."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from sextant.contracts import Examination, Streams
from sextant.errors import UserError
from sextant.runs import code, ledger, provenance, training
from sextant.runs.build import build
from sextant.runs.context import RunContext
from sextant.runs.lease import lease
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder, replace_file, write_json
from sextant.wandb.mirror import make_logger


class FinishedParent:
    """A parent run on disk."""

    def __init__(self, spec: RunSpec, folder: RunFolder) -> None:
        self.run_id, self.spec, self.folder = spec.run_id, spec.settings, folder.path
        self._student = folder.student

    def load(self) -> torch.nn.Module:
        """The trained student on the CPU, in evaluation mode."""
        student = build(self.spec["method"]["module"])
        student.load_state_dict(torch.load(self._student, map_location="cpu", weights_only=True))
        return student.eval().requires_grad_(False)


def execute(spec: RunSpec, context: RunContext, again: bool = False) -> dict[str, Any]:
    """Carries out a run, or returns its ledger line if it has ended before.

    Args:
        again: forget how the run ended before (a failure to retry).

    Raises:
        sextant.runs.lease.Taken: another process works on it and `wait` is false.
        sextant.runs.training.Interrupted: the run was asked to stop and can be resumed.
        UserError: the settings cannot be built, a parent is missing, or the disk is full.
    """
    folder = open_folder(context.runs, spec)
    with lease(folder.path / "lease", context.wait, context.on_wait):
        mirror = None
        record = None if again else folder.finished()
        if record is None or (record["status"] == "done" and not folder.student.is_file()):
            record, mirror = _attempt(spec, folder, context)
            write_json(folder.result, record)
        known = ledger.read(context.ledger, [spec.run_id]).get(spec.run_id)
        if known is None or _outcome(known) != _outcome(record):
            ledger.append(context.ledger, record)
        if mirror is not None:
            mirror.finish(record)
    return record


def _outcome(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["status"], record.get("reason"), record["scores"]


def _attempt(spec: RunSpec, folder: RunFolder, context: RunContext) -> tuple[dict[str, Any], Any]:
    """Trains and examines; what goes wrong with the run itself becomes its result.

    Returns:
        The ledger line, and the mirror that still has to be told of it.
    """
    started = time.monotonic()
    device = device_of(context.trainer["accelerator"])
    record: dict[str, Any] = {
        "run_id": spec.run_id,
        "task": spec.task,
        "method": spec.method,
        "tier": spec.tier,
        "seed": spec.seed,
        "scores": {},
        "spec": spec.to_json()["settings"],
        "parents": [parent.run_id for parent in spec.parents.values()],
        "provenance": provenance.collect(context.root, device),
    }
    digest = code.remember(context.ledger, code.Sources().of(spec.settings))
    record["provenance"]["code"] = digest
    begin_anew_with_other_code(folder, digest)
    logger = make_logger(context.logger, spec, folder)
    try:
        examination, data, seconds = _study_and_examine(spec, folder, context, logger)
        record["scores"] = {name: score.to_json() for name, score in examination.scores.items()}
        record["provenance"]["data"] = data.fingerprints()
        record["status"] = "done"
    except (UserError, training.Interrupted, KeyboardInterrupt):
        logger.abandon()
        raise
    except Exception as error:
        traceback.print_exc()
        reason, message = failure(error)
        record |= {"status": "failed", "reason": reason, "message": message}
        record["provenance"].setdefault("data", {})
        seconds = time.monotonic() - started
    record["seconds"] = round(seconds, 2)
    record["peak_memory_mb"] = round(training.peak_memory_mb(device), 1)
    return record, logger


def begin_anew_with_other_code(folder: RunFolder, digest: str) -> None:
    """Drops what an earlier attempt with other code left, so that one code computes a result."""
    if folder.checkpoint.is_file() and (
        not folder.code.is_file() or folder.code.read_text().strip() != digest
    ):
        print("the code has changed since the checkpoint was written: the run begins anew")
        folder.checkpoint.unlink()
    replace_file(folder.code, lambda path: path.write_text(f"{digest}\n"))


def _study_and_examine(
    spec: RunSpec, folder: RunFolder, context: RunContext, logger: Any
) -> tuple[Examination, Any, float]:
    settings = spec.settings
    streams = Streams(spec.seed)
    parents = _finished_parents(spec, context.runs)
    data = build(settings["task"]["data"])
    data.begin(streams, parents)
    training.seed_initialisation(spec.seed)
    student = build(settings["method"]["module"])
    started = time.monotonic()
    student.begin(streams, parents, data)  # where a student that is no LightningModule works
    seconds = time.monotonic() - started
    if isinstance(student, pl.LightningModule):
        with training.StopRequest().listening() as stop:
            seconds += training.fit(
                student,
                data,
                folder,
                settings["budget"]["steps"],
                context.trainer,
                spec.time_limit,
                context.report,
                stop,
                logger.lightning,
            )
    started = time.monotonic()
    if isinstance(student, torch.nn.Module):
        replace_file(folder.student, lambda path: torch.save(student.state_dict(), path))
        student.eval()
    else:
        replace_file(folder.student, lambda path: torch.save({}, path))
    exam = build(settings["task"]["exam"])
    examination = exam.examine(student, data, streams, parents)
    _save(examination, folder)
    folder.checkpoint.unlink(missing_ok=True)
    return examination, data, seconds + time.monotonic() - started


def _finished_parents(spec: RunSpec, runs: Path) -> dict[str, FinishedParent]:
    parents = {}
    for role, parent in spec.parents.items():
        folder = RunFolder(runs / parent.run_id)
        if not folder.student.is_file():
            raise UserError(
                f"{spec.title} starts from its {role}, run {parent.run_id}, which is not here; "
                f"make it with: {parent.command()}"
            )
        parents[role] = FinishedParent(parent, folder)
    return parents


def _save(examination: Examination, folder: RunFolder) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **examination.arrays)

    replace_file(folder.samples, write)
    if examination.pictures:
        from PIL import Image

        for name, pixels in examination.pictures.items():
            picture = Image.fromarray(pixels)
            target = folder.pictures / f"{name}.png"
            replace_file(target, lambda path, picture=picture: picture.save(path, format="png"))


def device_of(accelerator: str) -> str:
    """cpu or gpu, as the trainer will choose."""
    wants = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "gpu" if wants else "cpu"


def failure(error: Exception) -> tuple[str, str]:
    """Why a run failed, in the ledger's words, and the first line of what it said."""
    message = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if isinstance(error, FloatingPointError):
        return "diverged", message
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "oom", message
    if isinstance(error, training.OutOfTime):
        return "timeout", message
    return "error", f"{type(error).__name__}: {message}"
