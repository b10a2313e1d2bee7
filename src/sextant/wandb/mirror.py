"""Mirrors of a run: none, or Weights & Biases. The ledger stays the truth.

Offline, the mirror is written once, when the run has ended, from what its folder keeps; so a run
that was interrupted ten times has one offline copy with one unbroken curve. Online, the curves are
sent while the run trains, and a resumed run goes on in the same W&B run.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sextant.errors import UserError, unknown
from sextant.runs import curves
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder
from sextant.wandb.account import first_line

MODES = ("offline", "online")
STEP = "trainer/global_step"  # Lightning's name, so that online and offline curves share an axis
LINE = "ledger_line"
SCORE = "score/"
# what a shell that carries out a run of its own (a sweep's agent, say) would give to ours
OF_ANOTHER_RUN = (
    "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_LAUNCH", "WANDB_RESUME",
    "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_NAME", "WANDB_NOTES", "WANDB_TAGS",
)  # fmt: skip


def make_logger(settings: Mapping[str, Any], spec: RunSpec, folder: RunFolder) -> Any:
    """The mirror the logger settings name: `kind: csv` (curves.csv alone) or `kind: wandb`.

    Raises:
        UserError: for settings that `check_logger` refuses, or W&B online without a login.
    """
    check_logger(settings)
    return NoMirror() if settings["kind"] == "csv" else WandbMirror(settings, spec, folder)


def check_logger(settings: Mapping[str, Any]) -> None:
    """Refuses settings under which no run could be mirrored, before one is carried out.

    Raises:
        UserError: for a kind or mode that is not known, or a project that W&B takes no runs for.
    """
    kind, mode = settings.get("kind"), settings.get("mode", "offline")
    if kind not in ("csv", "wandb"):
        raise unknown("logger kind", kind, ["csv", "wandb"])
    if kind == "csv":
        return
    if mode not in MODES:
        raise unknown("logger.mode", mode, MODES)
    import wandb

    try:
        wandb.Settings(project=str(settings["project"]))
    except wandb.errors.UsageError as error:
        raise UserError(f"logger.project is refused by W&B: {first_line(error)}") from None


class NoMirror:
    lightning = None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def abandon(self) -> None:
        """Nothing to do."""


class WandbMirror:
    """One W&B run for one run, under the same id.

    Its group is the table it was carried out for (else the task), its job type the method, its
    config the resolved settings with the run's names and provenance, its summary the scores, and
    the ledger line itself, from which `sextant ledger import` rebuilds the ledger. W&B gives a run
    one group: a run that several tables show stays in that of the first that asked for it, which is
    why a dashboard chooses its runs by their ids.

    Args:
        settings: `project`, `entity`, `mode` (offline or online), and `table` where a table asked.
    """

    def __init__(self, settings: Mapping[str, Any], spec: RunSpec, folder: RunFolder) -> None:
        self.settings, self.spec, self.folder = settings, spec, folder
        self.online = settings.get("mode", "offline") == "online"
        self.run, self.lightning = None, None
        if self.online:
            from pytorch_lightning.loggers import WandbLogger

            self.run = self._open()
            self.lightning = WandbLogger(experiment=self.run)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Adds how the run ended; what goes wrong here is told and never fails the run."""
        try:
            if not self.online:
                _forget_offline_copies(self.folder)
            run = self.run or self._open()
            self._catch_up(run)
            self._tell(run, record)
            run.finish(exit_code=0 if record["status"] == "done" else 1)
        except Exception:
            traceback.print_exc()
            print(f"run {self.spec.run_id} is in the ledger but could not be mirrored to W&B")

    def abandon(self) -> None:
        """The run was stopped and can be resumed; offline nothing was written yet."""
        if self.run is None:
            return
        try:
            self._catch_up(self.run)
            self.run.mark_preempting()
            self.run.finish(exit_code=1)
        except Exception:
            traceback.print_exc()

    def _open(self) -> Any:
        if not self.online:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        for name in OF_ANOTHER_RUN:
            os.environ.pop(name, None)
        import wandb

        spec, table = self.spec, self.settings.get("table")
        names = {"task": spec.task, "method": spec.method, "tier": spec.tier, "table": table}
        parents = {role: parent.run_id for role, parent in spec.parents.items()}
        try:
            run = wandb.init(
                id=spec.run_id,
                name=spec.title,
                project=self.settings["project"],
                entity=self.settings.get("entity"),
                dir=self.folder.path,
                mode="online" if self.online else "offline",
                resume="allow" if self.online else None,
                reinit="finish_previous",
                group=table or spec.task,
                job_type=spec.method,
                tags=[spec.tier, spec.method.split("/")[0], f"seed {spec.seed}"],
                config={**spec.settings, "run": {**names, "parents": parents}},
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    # online it is for the user to say: WANDB_X_DISABLE_STATS
                    **({} if self.online else {"x_disable_stats": True}),
                ),
            )
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise UserError(
                f"logger.mode is online, but W&B says: {first_line(error)}; "
                "call `wandb login`, set WANDB_API_KEY, or use logger=wandb, which is offline"
            ) from None
        except wandb.errors.CommError as error:
            raise UserError(
                f"logger.mode is online, but W&B does not answer: {first_line(error)}; "
                "logger=wandb works offline and `sextant wandb sync` sends it later"
            ) from None
        if run.id != spec.run_id:
            run.finish(exit_code=1)
            raise UserError(
                f"W&B calls run {spec.run_id} {run.id}, after another run of this shell; start "
                "again without its WANDB_RUN_ID and WANDB_SWEEP_ID"
            )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        if self.online:
            print(f"W&B: {run.url}")
        return run

    def _catch_up(self, run: Any) -> None:
        """Adds what curves.csv has beyond the last step told: offline all of it, online the step at
        which the run stopped, which Lightning did not come to log."""
        told = run.summary.get(STEP, -1)
        for step, metrics in curves.steps(self.folder.curves):
            if step - 1 > told:
                run.log({**metrics, STEP: step - 1})

    def _tell(self, run: Any, record: Mapping[str, Any]) -> None:
        import wandb

        run.config.update({"provenance": record["provenance"]}, allow_val_change=True)
        pictures = {
            f"sample/{path.stem}": wandb.Image(str(path))
            for path in sorted(self.folder.pictures.glob("*.png"))
        }
        if record["scores"]:
            columns = ["score", "value", "n", "standard_error", "better"]
            rows = [
                [name, *(score.get(column) for column in columns[1:])]
                for name, score in record["scores"].items()
            ]
            run.log({"scores": wandb.Table(columns=columns, data=rows), **pictures})
        run.summary.update(summary(record))


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B's run table shows of a ledger line, and the line itself."""
    shown: dict[str, Any] = {"status": record["status"], "seconds": record["seconds"]}
    for name in ("reason", "message", "peak_memory_mb"):
        if record.get(name) is not None:
            shown[name] = record[name]
    for name, score in record["scores"].items():
        shown[SCORE + name] = score["value"]
        shown[f"{SCORE}{name}/n"] = score["n"]
        if score.get("standard_error") is not None:
            shown[f"{SCORE}{name}/standard_error"] = score["standard_error"]
    return {**shown, LINE: json.dumps(dict(record), allow_nan=False)}


def offline_copies(folder: RunFolder) -> list[Path]:
    """The offline W&B files of a run's folder."""
    return sorted((folder.path / "wandb").glob("offline-run-*/*.wandb"))


def is_sent(copy: Path) -> bool:
    """Whether an offline copy has reached a server: W&B leaves a mark beside it."""
    return copy.with_name(f"{copy.name}.synced").exists()


def _forget_offline_copies(folder: RunFolder) -> None:
    """A run tried again replaces the copy of the attempt before."""
    for copy in offline_copies(folder):
        shutil.rmtree(copy.parent)
