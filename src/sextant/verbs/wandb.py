"""sextant wandb sync|dashboard: what the mirrors on Weights & Biases need."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sextant.errors import UserError, unknown
from sextant.paths import Project, find_project
from sextant.runs.compose import Composer
from sextant.runs.lease import Taken, holder, lease
from sextant.runs.mirror import WandbMirror, is_sent, offline_copies
from sextant.runs.spec import PROGRAM
from sextant.runs.store import RunFolder, replace_file
from sextant.runs.wandb_account import login, refusals, require_login
from sextant.tables.definition import TableDefinition, find_table
from sextant.verbs.arguments import Arguments, read
from sextant.verbs.tabling import TableRuns, fill, runs_of

USAGE = """usage: sextant wandb sync [N] [tier=small] | dashboard N [tier=small] [from=FILE]

  sync         sends the offline copies of runs that were carried out with logger=wandb; what was
               sent before is not sent again
  sync N       makes copies of table N's finished runs that have none first, whatever their logger
  dashboard N  makes, or replaces, a W&B report of table N: score by method with error bars, curves
               by method, cost; writes its definition to results/dashboards as well
  from         makes it from such a file, written here or on another machine

Both need `wandb login` or WANDB_API_KEY; without it, dashboard writes the definition only. The
project and entity are those of conf/logger/wandb.yaml. logger=wandb mirrors a run offline,
logger=wandb_online while it trains. A run stands in the group of the table it was first carried out
for; dashboards choose runs by id, so each table shows the runs it shares with others.

examples:
  sextant wandb sync
  sextant wandb dashboard 12 tier=small
  sextant wandb dashboard 12 from=table-12.small.json"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["sync|dashboard", "?N"], ("tier", "from"))
    if asked is None:
        return 0
    action, project = asked.words[0], find_project()
    os.environ.setdefault("WANDB_DIR", str(project.results))  # its logs, else in the checkout
    if action == "sync":
        if len(asked.words) > 1:
            _copy_table(project, find_table(project.root, asked.words[1]), asked.tier())
        return sync(project)
    if action == "dashboard":
        return dashboard(project, asked)
    raise unknown("wandb command", action, ["sync", "dashboard"])


def sync(project: Project) -> int:
    """Sends the offline copies that no server has; says how many went and what went wrong."""
    copies = [
        copy
        for path in sorted(project.runs.glob("*/"))
        for copy in offline_copies(RunFolder(path))
        if holder(path / "lease") is None  # else it is being written
    ]
    waiting = [copy for copy in copies if not is_sent(copy)]
    if not waiting:
        print(f"nothing to send: {len(copies)} offline copies, all of them sent")
        return 0
    server = require_login(f"send {len(waiting)} runs")
    settings = Composer(project.conf).setting("logger", "wandb")
    said = _send(waiting, settings)
    left = [copy for copy in waiting if not is_sent(copy)]
    print(f"sent {len(waiting) - len(left)} of {len(waiting)} runs to {server}")
    if left:
        for line in said[-10:]:
            print(f"  {line}", file=sys.stderr)
        print(f"sextant: {len(left)} are left; the same command sends them", file=sys.stderr)
        return 1
    return 0


def _send(copies: Sequence[Path], settings: dict[str, Any]) -> list[str]:
    """Runs `wandb sync` over the copies with a progress bar; returns what it said."""
    from rich.console import Console
    from rich.progress import Progress

    command = [sys.executable, "-m", "wandb", "sync", "--project", settings["project"]]
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


def _copy_table(project: Project, definition: TableDefinition, tier: str) -> None:
    """Writes offline copies of a table's finished runs that are on this machine and have none."""
    from rich.console import Console
    from rich.progress import track

    settings = Composer(project.conf).setting("logger", "wandb")
    settings |= {"mode": "offline", "table": definition.id}
    lacking = []
    for spec in runs_of(project, definition, tier).specs:
        folder = RunFolder(project.runs / spec.run_id)
        if folder.result.is_file() and not (folder.path / "wandb").is_dir():
            lacking.append((spec, folder))
    if not lacking:
        return
    console = Console(stderr=True)
    for spec, folder in track(lacking, "copies", console=console, transient=True):
        try:
            with lease(folder.path / "lease", wait=False):
                WandbMirror(settings, spec, folder).finish(folder.finished() or {})
        except Taken:
            continue  # it is being carried out again and will be copied when it ends
    print(f"made copies of {len(lacking)} runs of table {definition.number}")


def dashboard(project: Project, asked: Arguments) -> int:
    """Writes a table's report to a file, and to the W&B server where somebody is logged in."""
    if len(asked.words) < 2:
        raise UserError(f"N is missing; {USAGE.splitlines()[0]}")
    if "from" in asked.options:
        return apply(project, find_table(project.root, asked.words[1]), Path(asked.options["from"]))
    from sextant.tables import dashboard as definition_of
    from sextant.tables import render

    definition, tier = find_table(project.root, asked.words[1]), asked.tier()
    runs = runs_of(project, definition, tier)
    page = render.FORMATS["md"](fill(project, definition, tier, runs))
    settings = Composer(project.conf).setting("logger", "wandb")
    server, logged_in = login()
    entity = settings.get("entity") or (_own_entity(server) if logged_in else "")
    report = definition_of.build(
        definition, tier, _tasks(project, definition, runs), entity, settings["project"], page
    )
    path = project.results / "dashboards" / f"table-{definition.number:02d}.{tier}.json"
    replace_file(path, lambda beside: beside.write_text(definition_of.to_json(report)))
    print(f"definition: {path}")
    if logged_in:
        print(f"report: {_save(report, server)}")
    else:
        again = f"{PROGRAM} wandb dashboard {definition.number} from={path}"
        print(
            f"not sent, because nobody is logged in to {server}: call `wandb login`, then "
            f"`{again}`, here or on another machine"
        )
    return 0


def apply(project: Project, definition: TableDefinition, path: Path) -> int:
    """Makes a table's report on the W&B server from the file that `dashboard` wrote."""
    from sextant.tables import dashboard as definition_of

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    report = definition_of.from_json(path.read_text(), str(path))
    if not report.title.startswith(f"Table {definition.number} ({definition.id})"):
        raise UserError(
            f"{path} is the dashboard {report.title!r}, not that of table {definition.number}"
        )
    server = require_login("make a report")
    settings = Composer(project.conf).setting("logger", "wandb")
    report.entity = report.entity or settings.get("entity") or _own_entity(server)
    print(f"report: {_save(report, server)}")
    return 0


def _tasks(project: Project, definition: TableDefinition, runs: TableRuns) -> dict[str, Any]:
    """The runs of each task, and the curves and pictures that those on this machine left."""
    from sextant.tables.dashboard import TaskRuns

    tasks = {}
    for column in definition.columns:
        if column.task in tasks:
            continue
        specs = [spec for spec in runs.specs if spec.task == column.task]
        folders = [RunFolder(project.runs / spec.run_id) for spec in specs]
        curves = {name for folder in folders for name in _curve_names(folder)}
        samples = {path.stem for folder in folders for path in folder.pictures.glob("*.png")}
        tasks[str(column.task)] = TaskRuns(
            [spec.run_id for spec in specs], sorted(curves) or ["loss"], sorted(samples)
        )
    return tasks


def _curve_names(folder: RunFolder) -> set[str]:
    """The metrics of the first logged step; the others log the same."""
    if not folder.curves.is_file():
        return set()
    names, first = set(), None
    with folder.curves.open(newline="") as file:
        for row in csv.DictReader(file):
            first = first or row["step"]
            if row["step"] != first:
                break
            names.add(row["metric"])
    return names


def _own_entity(server: str) -> str:
    import wandb

    with refusals(f"{server} does not say who is logged in"):
        return str(wandb.Api().default_entity or "")


def _save(report: Any, server: str) -> str:
    """Creates the report, or replaces the one of the same title; returns its address."""
    import wandb

    with refusals(f"{server} did not take the report"):
        existing = wandb.Api().reports(f"{report.entity}/{report.project}")
        try:
            found = [known.id for known in existing if known.display_name == report.title]
        except ValueError:
            found = []  # no such project yet; saving makes it
        if found:
            report.id = found[0]
        return str(report.save().url)
