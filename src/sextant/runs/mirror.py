"""Mirrors of a run: none, or Weights & Biases. The ledger stays the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sextant.contracts import Examination
from sextant.errors import UserError, unknown
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder


def make_logger(settings: Mapping[str, Any], spec: RunSpec, folder: RunFolder) -> Any:
    """The mirror the logger settings name: `kind: csv` (curves.csv alone) or `kind: wandb`."""
    kind = settings.get("kind")
    if kind == "csv":
        return NoMirror()
    if kind == "wandb":
        return WandbMirror(settings, spec, folder)
    raise unknown("logger kind", kind, ["csv", "wandb"])


class NoMirror:
    lightning = None

    def finish(self, examination: Examination) -> None:
        """Nothing to do."""

    def abandon(self) -> None:
        """Nothing to do."""


class WandbMirror:
    """One W&B run for one run: same id, config = resolved spec, summary = scores, pictures.

    Offline unless `mode` says online, so no network and no account are needed.
    """

    def __init__(self, settings: Mapping[str, Any], spec: RunSpec, folder: RunFolder) -> None:
        from pytorch_lightning.loggers import WandbLogger

        mode = settings.get("mode", "offline")
        if mode not in ("offline", "online"):
            raise UserError(f"logger.mode must be offline or online, not {mode!r}")
        self.lightning = WandbLogger(
            name=f"{spec.task} {spec.method} {spec.seed}",
            id=spec.run_id,
            project=settings["project"],
            entity=settings.get("entity"),
            save_dir=folder.path,
            offline=mode == "offline",
            resume="allow" if mode == "online" else None,
            group=spec.task,
            job_type=spec.method,
            tags=[spec.tier, spec.method.split("/")[0], f"seed {spec.seed}"],
            config=dict(spec.settings),
        )

    def finish(self, examination: Examination) -> None:
        import wandb

        run = self.lightning.experiment
        run.summary.update({name: score.value for name, score in examination.scores.items()})
        if examination.pictures:
            run.log({name: wandb.Image(pixels) for name, pixels in examination.pictures.items()})
        run.finish()

    def abandon(self) -> None:
        self.lightning.experiment.finish(exit_code=1)
