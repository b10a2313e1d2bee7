"""Where and how runs are carried out; nothing here changes what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _quiet(*_: Any) -> None:
    """Reports to nobody."""


@dataclass
class RunContext:
    """Folders, trainer and logger settings, and who is told of progress.

    Args:
        root: the checkout.
        runs: run folders.
        ledger: ledger files.
        trainer: accelerator, devices, checkpoint_seconds, checkpoint_steps, log_every; and nodes
            and processes_per_node where several processes share a run.
        logger: `{kind: csv}` or `{kind: wandb, project, entity, mode}`.
        wait: wait for another process that works on the same run instead of leaving.
        report: told (step, steps, metrics) while a run trains.
        on_wait: told who works on the run when waiting begins.
    """

    root: Path
    runs: Path
    ledger: Path
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any] = field(default_factory=lambda: {"kind": "csv"})
    wait: bool = True
    report: Callable[[int, int, Mapping[str, float]], None] = _quiet
    on_wait: Callable[[str], None] = _quiet

    @property
    def nodes(self) -> int:
        """The nodes one run is spread over."""
        return self.trainer.get("nodes", 1)

    @property
    def processes(self) -> int:
        """The processes that share one run, on all its nodes together."""
        return self.nodes * self.trainer.get("processes_per_node", 1)
