"""Carries out one run: the student learns, the exam asks, the ledger gets its line."""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from sextant.contracts import Examination, Streams
from sextant.errors import UserError
from sextant.files import disk_errors, disk_trouble, replace_file, set_aside, write_json
from sextant.printable import printable
from sextant.runs import code, ledger, provenance, tensors, training
from sextant.runs.build import build
from sextant.runs.context import RunContext
from sextant.runs.lease import Lease, lease
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder
from sextant.wandb.mirror import make_logger


class FinishedParent:
    """A parent run on disk."""

    def __init__(self, spec: RunSpec, folder: RunFolder) -> None:
        self.run_id, self.spec, self.folder = spec.run_id, spec.settings, folder.path
        self._student, self._command = folder.student, f"{spec.command()} --again"

    def load(self) -> torch.nn.Module:
        """The trained student on the CPU, in evaluation mode.

        Raises:
            UserError: where its file is damaged; it is set aside.
        """
        student = build(self.spec["method"]["module"])
        try:
            weights = tensors.load(self._student)
        except tensors.Damaged as damage:
            raise UserError(
                f"{damage} and set aside; the parent is made again with: {self._command}"
            ) from None
        student.load_state_dict(weights)
        return student.eval().requires_grad_(False)


def execute(spec: RunSpec, context: RunContext, again: bool = False) -> dict[str, Any]:
    """Carries out a run, or returns its ledger line if it has ended before.

    Args:
        again: forget how the run ended before (a failure to retry).

    Raises:
        sextant.runs.lease.Taken: another process works on it and `wait` is false.
        sextant.runs.training.Interrupted: the run was asked to stop and can be resumed.
        UserError: the settings cannot be built, a parent is missing, or the machine is at fault
            (a full disk, a file that may not be read, a library that is not there).
    """
    folder = open_folder(context.runs, spec)
    with (
        lease(folder.path / "lease", context.wait, context.on_wait) as held,
        disk_errors(folder.path),
    ):
        folder.forget_half_written()
        mirror = None
        record = _ended_before(folder)
        if again and record is not None and record["status"] == "failed":
            _forget_failure(folder, record, spec.time_limit)
            record = None
        if record is None or (record["status"] == "done" and not folder.student.is_file()):
            record, mirror = _attempt(spec, folder, context, held)
            held.check()
            write_json(folder.result, record)
        known = ledger.read(context.ledger, [spec.run_id]).get(spec.run_id)
        if known is None or _says_more(record, known):
            held.check()
            ledger.append(context.ledger, record)
        if mirror is not None:
            mirror.finish(record)
    return record


def _ended_before(folder: RunFolder) -> dict[str, Any] | None:
    """How the run ended, or None; a result that cannot be read is set aside."""
    try:
        record = folder.finished()
        fault = None if record is None else ledger.problem(record)
    except UserError as error:
        record, fault = None, str(error).partition(";")[0]
    if fault:
        print(f"{folder.result} {fault}: it is set aside and the run begins anew")
        set_aside(folder.result)
        return None
    return record


def _forget_failure(folder: RunFolder, record: Mapping[str, Any], time_limit: float | None) -> None:
    """What failed is tried again from its beginning, lest it fail from the same checkpoint again.

    A run that had too little memory goes on where it stopped, and so does one whose time limit was
    raised since.
    """
    goes_on = record["reason"] == "oom"
    if record["reason"] == "timeout":
        checkpoint = tensors.load_checkpoint(folder.checkpoint)
        spent = (
            checkpoint["callbacks"][training.RunCallback.__qualname__]["seconds"]
            if checkpoint
            else 0.0
        )
        goes_on = time_limit is None or spent < time_limit
    if not goes_on:
        folder.checkpoint.unlink(missing_ok=True)
    folder.result.unlink()


def _says_more(record: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a line would count beside the one that the ledger has."""
    below = known["status"] == "done" and record["status"] == "failed"
    return not below and _outcome(record) != _outcome(known)


def _outcome(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["status"], record.get("reason"), record["scores"]


def _attempt(
    spec: RunSpec, folder: RunFolder, context: RunContext, held: Lease
) -> tuple[dict[str, Any], Any]:
    """Trains and examines; what goes wrong with the run itself becomes its result.

    Returns:
        The ledger line, and the mirror that still has to be told of it.
    """
    started = time.monotonic()
    training.use_one_thread()
    device = device_of(context.trainer["accelerator"])
    training.forget_peak_memory(device)
    record = ledger.new_record(spec, provenance.collect(context.root, device))
    digest = code.remember(context.ledger, code.Sources().of(spec.settings))
    record["provenance"]["code"] = digest
    begin_anew_with_other_code(folder, digest)
    logger = make_logger(context.logger, spec, folder)
    try:
        examination, data, seconds = _study_and_examine(spec, folder, context, logger, held)
        record["scores"] = {name: score.to_json() for name, score in examination.scores.items()}
        record["provenance"]["data"] = data.fingerprints()
        record["status"] = "done"
    except (UserError, training.Interrupted, KeyboardInterrupt):
        logger.abandon()
        raise
    except Exception as error:
        traceback.print_exc()
        trouble = trouble_of_the_machine(error)
        if trouble:
            logger.abandon()
            held.check()
            raise UserError(f"{spec.title}: {trouble}; nothing is recorded") from error
        reason, message = failure(error)
        record |= {"status": "failed", "reason": reason, "message": message}
        record["provenance"].setdefault("data", {})
        seconds = time.monotonic() - started
    record["seconds"] = round(seconds, 2)
    record["peak_memory_mb"] = round(training.peak_memory_mb(device), 1)
    record["ended"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    return record, logger


def begin_anew_with_other_code(folder: RunFolder, digest: str) -> None:
    """Drops what an earlier attempt with other code left, so that one code computes a result."""
    if folder.checkpoint.is_file() and (
        not folder.code.is_file() or folder.code.read_text(errors="replace").strip() != digest
    ):
        print("the code has changed since the checkpoint was written: the run begins anew")
        folder.checkpoint.unlink()
    replace_file(folder.code, lambda path: path.write_text(f"{digest}\n"))


def _study_and_examine(
    spec: RunSpec, folder: RunFolder, context: RunContext, logger: Any, held: Lease
) -> tuple[Examination, Any, float]:
    settings = spec.settings
    streams = Streams(spec.seed)
    parents = _finished_parents(spec, context.runs)
    data = build(settings["task"]["data"])
    data.prepare(streams, parents)
    training.seed_initialisation(spec.seed)
    student = build(settings["method"]["module"])
    started = time.monotonic()
    student.prepare(streams, parents, data)  # where a student that is no LightningModule works
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
                held.check,
            )
    started = time.monotonic()
    held.check()
    weights = student.state_dict() if isinstance(student, torch.nn.Module) else {}
    replace_file(folder.student, lambda path: tensors.save(weights, path))
    if isinstance(student, torch.nn.Module):
        student.eval()
    exam = build(settings["task"]["exam"])
    examination = exam.examine(student, data, streams, parents)
    held.check()
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
                f"make it with: {parent.command()} --again"
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
    """cpu or gpu, as the trainer will choose.

    Raises:
        UserError: for a GPU that is not here.
    """
    wants = accelerator in ("gpu", "cuda")
    if wants and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator is {accelerator}, but torch finds no GPU here")
    return "gpu" if wants or (accelerator == "auto" and torch.cuda.is_available()) else "cpu"


def trouble_of_the_machine(error: BaseException | None) -> str | None:
    """What is wrong where a run was carried out, which says nothing of its method; else None."""
    while error is not None:
        if isinstance(error, OSError):
            return disk_trouble(error)
        if isinstance(error, ImportError):
            return f"{error}; `make setup` installs what is needed"
        if isinstance(error, MisconfigurationException):
            return (str(error).splitlines() or [""])[0]
        if isinstance(error, RuntimeError):
            # torch tells in words of its own, with a disk's errors in them
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
                if os.strerror(number) in str(error):
                    return disk_trouble(OSError(number, os.strerror(number)))
        error = error.__cause__
    return None


def failure(error: Exception) -> tuple[str, str]:
    """Why a run failed, in the ledger's words, and the first line of what it said."""
    message = (str(error).splitlines() or [type(error).__name__])[0]
    message = printable(message)[:300]
    if isinstance(error, FloatingPointError):
        return "diverged", message
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "oom", message
    if isinstance(error, training.OutOfTime):
        return "timeout", message
    return "error", f"{type(error).__name__}: {message}"
