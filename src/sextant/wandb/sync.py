"""Sends the offline copies of runs to a W&B server, by the client's own `wandb sync`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, track

from sextant.runs.lease import Taken, holder, lease
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder
from sextant.wandb.account import require_login
from sextant.wandb.mirror import WandbMirror, is_sent, offline_copies

SYNC = (sys.executable, "-m", "wandb", "sync")


def send(runs: Path, settings: Mapping[str, Any]) -> int:
    """Sends the offline copies that no server has; says how many went and what went wrong.

    Args:
        runs: the run folders.
        settings: `project` and `entity` of the logger.
    """
    copies = [
        copy
        for path in sorted(runs.glob("*/"))
        for copy in offline_copies(RunFolder(path))
        if holder(path / "lease") is None  # else it is being written
    ]
    waiting = [copy for copy in copies if not is_sent(copy)]
    if not waiting:
        print(f"nothing to send: {len(copies)} offline copies, all of them sent")
        return 0
    server = require_login(f"send {len(waiting)} runs")
    said = _run_sync(waiting, settings)
    left = [copy for copy in waiting if not is_sent(copy)]
    print(f"sent {len(waiting) - len(left)} of {len(waiting)} runs to {server}")
    if left:
        for line in said[-10:]:
            print(f"  {line}", file=sys.stderr)
        print(f"sextant: {len(left)} are left; the same command sends them", file=sys.stderr)
        return 1
    return 0


def _run_sync(copies: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    """Runs `wandb sync` over the copies with a progress bar; returns what it said."""
    command = [*SYNC, "--project", settings["project"]]
    if settings.get("entity"):
        command += ["--entity", settings["entity"]]
    with (
        tempfile.TemporaryFile("w+") as said,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        bar = progress.add_task("runs", total=len(copies))
        process = subprocess.Popen(
            [*command, *(str(copy.parent) for copy in copies)], stdout=said, stderr=said
        )
        while True:
            try:
                process.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                progress.update(bar, completed=sum(map(is_sent, copies)))
        said.seek(0)
        return said.read().splitlines()


def copy_finished(specs: Sequence[RunSpec], runs: Path, settings: Mapping[str, Any]) -> int:
    """Writes offline copies of finished runs that are on this machine and have none."""
    lacking = []
    for spec in specs:
        folder = RunFolder(runs / spec.run_id)
        if folder.result.is_file() and not (folder.path / "wandb").is_dir():
            lacking.append((spec, folder))
    for spec, folder in track(lacking, "copies", console=Console(stderr=True), transient=True):
        try:
            with lease(folder.path / "lease", wait=False):
                WandbMirror({**settings, "mode": "offline"}, spec, folder).finish(
                    folder.finished() or {}
                )
        except Taken:
            continue  # it is being carried out again and will be copied when it ends
    return len(lacking)
