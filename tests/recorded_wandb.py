"""In place of the W&B client: keeps what it was asked for, and answers as a server would.

What the client itself does with these calls (its protocol, its `sync`) is its own affair and comes
with its locked version; that it writes an offline copy is tested with the client as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as reports

KEY = "0123456789abcdef0123456789abcdef01234567"
SERVER = "http://127.0.0.1:9"  # where nobody answers
SYNC = """
import os, pathlib, sys
folders = [pathlib.Path(part) for part in sys.argv[1:] if "offline-run-" in part]
with open({asked!r}, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
for folder in folders:
    if os.environ["WANDB_API_KEY"] == {key!r}:
        (copy,) = folder.glob("*.wandb")
        copy.with_name(copy.name + ".synced").touch()
    else:
        print(f"{{folder.name}}: invalid credentials")
"""


class Run:
    """A run that was opened: what it was opened with and told since."""

    url = f"{SERVER}/lab/sextant/runs/1"

    def __init__(self, asked: dict[str, Any], real: Any = None) -> None:
        self.asked, self.id, self.real = asked, asked["id"], real
        self.name, self.project = asked["name"], asked["project"]
        self.config = Config(asked["config"])
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.defined: list[tuple[str, dict[str, Any]]] = []
        self.exit_code: int | None = None
        self.preempting = False

    def define_metric(self, name: str, **options: Any) -> None:
        self.defined.append((name, options))

    def log(self, row: dict[str, Any]) -> None:
        self.history.append(dict(row))
        self.summary |= row

    def mark_preempting(self) -> None:
        self.preempting = True

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        if self.real is not None:
            self.real.finish(exit_code=exit_code)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Step and loss, in the order told."""
        return [
            (row["trainer/global_step"] + 1, row["loss"]) for row in self.history if "loss" in row
        ]


class Config(dict):
    def update(self, changes: dict[str, Any], allow_val_change: bool = False) -> None:
        assert allow_val_change or not set(changes) & set(self)
        super().update(changes)


class Listed:
    """A run as `wandb.Api().runs` lists it."""

    def __init__(self, name: str, summary: dict[str, Any]) -> None:
        self.id, self.summary_metrics = name, summary


class Listing(list):
    """Runs of a project; a project that is not there shows when it is asked how many there are."""

    missing = False

    def __len__(self) -> int:
        if self.missing:
            raise ValueError("Could not find project")
        return super().__len__()


class Client:
    """Takes the place of the client's public functions for a test.

    Attributes:
        opened: the runs in the order they were opened; one that goes on is opened again.
        kept: summaries of runs on the server, by id.
        saved: reports that were saved.
    """

    def __init__(self, monkeypatch: Any, folder: Path) -> None:
        self.opened: list[Run] = []
        self.kept: dict[str, dict[str, Any]] = {}
        self.saved: list[Any] = []
        self.another_id: str | None = None
        self.asked_to_sync = folder / "asked to sync"
        self.real_init = wandb.init
        monkeypatch.setattr(wandb, "init", self.init)
        monkeypatch.setattr(wandb, "login", self.login)
        monkeypatch.setattr(wandb, "Api", lambda: Api(self))
        monkeypatch.setattr(reports.Report, "save", lambda report: self.save(report))
        program = folder / "sync.py"
        program.write_text(SYNC.format(asked=str(self.asked_to_sync), key=KEY))
        monkeypatch.setattr("sextant.wandb.sync.SYNC", (sys.executable, str(program)))

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt, "nobody is there to answer"
        return "WANDB_API_KEY" in os.environ

    def init(self, **asked: Any) -> Run:
        if asked["mode"] == "offline":
            run = Run(asked, self.real_init(**asked))  # which writes the copy
            run.id = run.real.id
            self.opened.append(run)
            return run
        if not wandb.login(prompt=False, verify=True):
            raise wandb.errors.UsageError("No API key configured")
        run = Run(asked)
        earlier = [one for one in self.opened if one.id == run.id]
        if earlier:
            run.summary |= earlier[-1].summary
        run.id = self.another_id or run.id
        self.opened.append(run)
        return run

    def save(self, report: Any) -> Any:
        self.saved.append(report)
        report.id = report.id or f"view-{len(self.saved)}"
        return SavedReport(report)


class Api:
    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def default_entity(self) -> str:
        if os.environ.get("WANDB_API_KEY") != KEY:
            raise wandb.errors.CommError("invalid credentials")
        return "lab"

    def runs(self, path: str, lazy: bool) -> Listing:
        found = Listing(Listed(*entry) for entry in self.client.kept.items())
        found.missing = path != "lab/sextant"
        assert not lazy, "a summary that is loaded later is asked for run by run"
        return found

    def reports(self, path: str) -> list[Any]:
        return [SavedReport(report) for report in self.client.saved]


class SavedReport:
    """A report as the server knows it."""

    def __init__(self, report: Any) -> None:
        self.id, self.display_name = report.id, report.title
        self.url = f"{SERVER}/{report.entity}/{report.project}/reports/{report.id}"
