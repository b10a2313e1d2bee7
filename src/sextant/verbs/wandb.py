"""sextant wandb sync|dashboard: what the mirrors on Weights & Biases need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sextant.errors import UserError, unknown
from sextant.files import replace_file
from sextant.paths import Project, find_project
from sextant.runs import curves
from sextant.runs.compose import Composer
from sextant.runs.spec import PROGRAM
from sextant.runs.store import RunFolder
from sextant.tables.definition import TableDefinition, find_table
from sextant.verbs.arguments import Arguments, read
from sextant.verbs.tabling import TableRuns, fill, runs_of
from sextant.wandb.account import login, own_entity, require_login

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
        return sync(project, asked)
    if action == "dashboard":
        return dashboard(project, asked)
    raise unknown("wandb command", action, ["sync", "dashboard"])


def sync(project: Project, asked: Arguments) -> int:
    """Sends what waits, after making copies of a table's runs where one is named."""
    from sextant.wandb.sync import copy_finished, send

    settings = Composer(project.conf).setting("logger", "wandb")
    if len(asked.words) > 1:
        definition = find_table(project.root, asked.words[1])
        specs = runs_of(project, definition, asked.tier()).specs
        copied = copy_finished(specs, project.runs, {**settings, "table": definition.id})
        if copied:
            print(f"made copies of {copied} runs of table {definition.number}")
    return send(project.runs, settings)


def dashboard(project: Project, asked: Arguments) -> int:
    """Writes a table's report to a file, and to the W&B server where somebody is logged in."""
    if len(asked.words) < 2:
        raise UserError(f"N is missing; {USAGE.splitlines()[0]}")
    if "from" in asked.options:
        return apply(project, find_table(project.root, asked.words[1]), Path(asked.options["from"]))
    from sextant.tables import render
    from sextant.wandb import dashboard as report_of

    definition, tier = find_table(project.root, asked.words[1]), asked.tier()
    runs = runs_of(project, definition, tier)
    page = render.FORMATS["md"](fill(project, definition, tier, runs))
    settings = Composer(project.conf).setting("logger", "wandb")
    server, logged_in = login()
    entity = settings.get("entity") or (own_entity(server) if logged_in else "")
    report = report_of.build(
        definition, tier, _tasks(project, definition, runs), entity, settings["project"], page
    )
    path = project.results / "dashboards" / f"table-{definition.number:02d}.{tier}.json"
    replace_file(path, lambda beside: beside.write_text(report_of.to_json(report)))
    print(f"definition: {path}")
    if logged_in:
        print(f"report: {report_of.save(report, server)}")
    else:
        again = f"{PROGRAM} wandb dashboard {definition.number} from={path}"
        print(
            f"not sent, because nobody is logged in to {server}: call `wandb login`, then "
            f"`{again}`, here or on another machine"
        )
    return 0


def apply(project: Project, definition: TableDefinition, path: Path) -> int:
    """Makes a table's report on the W&B server from the file that `dashboard` wrote."""
    from sextant.wandb import dashboard as report_of

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    report = report_of.from_json(path.read_text(), str(path))
    if not report.title.startswith(f"Table {definition.number} ({definition.id})"):
        raise UserError(
            f"{path} is the dashboard {report.title!r}, not that of table {definition.number}"
        )
    server = require_login("make a report")
    settings = Composer(project.conf).setting("logger", "wandb")
    report.entity = report.entity or settings.get("entity") or own_entity(server)
    print(f"report: {report_of.save(report, server)}")
    return 0


def _tasks(project: Project, definition: TableDefinition, runs: TableRuns) -> dict[str, Any]:
    """The runs of each task, and the curves and pictures that those on this machine left."""
    from sextant.wandb.dashboard import TaskRuns

    tasks = {}
    for column in definition.columns:
        if column.task in tasks:
            continue
        specs = [spec for spec in runs.specs if spec.task == column.task]
        folders = [RunFolder(project.runs / spec.run_id) for spec in specs]
        logged = {name for folder in folders for name in _curve_names(folder)}
        samples = {path.stem for folder in folders for path in folder.pictures.glob("*.png")}
        tasks[str(column.task)] = TaskRuns(
            [spec.run_id for spec in specs], sorted(logged) or ["loss"], sorted(samples)
        )
    return tasks


def _curve_names(folder: RunFolder) -> set[str]:
    """The metrics of the first logged step; the others log the same."""
    return set(next(curves.steps(folder.curves), (0, {}))[1])
