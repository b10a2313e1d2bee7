"""Writes the report: every page, script and picture of one folder."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sextant.runs.curves import by_metric
from sextant.tables import templating
from sextant.tables.definition import requests
from sextant.tables.records import run_file
from sextant.tables.report.cell_view import row_script
from sextant.tables.report.changes import changes_view
from sextant.tables.report.charts import Points
from sextant.tables.report.contents import Report
from sextant.tables.report.front import front_view
from sextant.tables.report.pairs import pairs_script
from sextant.tables.report.run_page import run_view, runs_view, uses_of_runs
from sextant.tables.report.table_page import table_view
from sextant.tables.schema import TableDefinition
from sextant.tables.table import Table, build
from sextant.tables.texts import page_stem

ASSETS = {
    "style.css": ("style/base.css", "style/tables.css", "style/charts.css"),
    "script.js": ("script/site.js", "script/filters.js", "script/grid.js", "script/pairs.js"),
}


class Folder:
    """The files of a site; those that are already as they should be are left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()
        self.folders: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Brings a file to this content."""
        path, content = self._place(name), text.encode()
        try:
            with open(path, "rb") as file:
                if file.read() == content:
                    return
        except FileNotFoundError:
            pass
        with open(path, "wb") as file:
            file.write(content)

    def copy(self, source: Path, name: str) -> str:
        """Brings a picture along, so that the folder can be moved; gives its name back."""
        path = self._place(name)
        wanted = source.stat()
        try:
            found = os.stat(path)
            if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
                return name
        except FileNotFoundError:
            pass
        shutil.copy2(source, path)
        return name

    def _place(self, name: str) -> str:
        self.names.add(name)
        path = f"{self.path}/{name}"
        parent = path.rpartition("/")[0]
        if parent not in self.folders:
            os.makedirs(parent, exist_ok=True)
            self.folders.add(parent)
        return path

    def tidy(self) -> None:
        """Removes what an earlier report left and this one does not have."""
        for folder, _, files in os.walk(self.path, topdown=False):
            for file in files:
                path = os.path.join(folder, file)
                if os.path.relpath(path, self.path) not in self.names:
                    os.unlink(path)
            if not os.listdir(folder):
                os.rmdir(folder)


def write_site(report: Report, folder: Path, step: Callable[[], None] = lambda: None) -> int:
    """Writes the whole site, the front page last.

    Args:
        folder: becomes this site and nothing else.
        step: called after each page of a table or run.

    Returns:
        The number of pages.
    """
    site = Folder(folder)
    _write(report, site, step)
    site.tidy()
    return sum(name.endswith(".html") for name in site.names)


def steps(report: Report) -> int:
    """How often `write_site` calls its `step`."""
    tables = sum(max(1, len(report.tables[number])) for number in report.definitions)
    return tables + len(report.records)


def _write(report: Report, site: Folder, step: Callable[[], None]) -> None:
    for name, parts in ASSETS.items():
        site.write(name, "\n".join(map(templating.asset, parts)))
    navigation = [("index.html", "Tables"), ("runs.html", "Runs")]
    navigation += [("changes.html", "Changes")] if report.before else []

    def page(file: str, template: str, view: Mapping[str, Any]) -> None:
        up = "../" * file.count("/")
        own = {"up": up, "current": file, "navigation": navigation, "before": report.before}
        site.write(file, templating.render(template, **view, **own))

    @cache
    def curves(run_id: str) -> Mapping[str, Points]:
        path = report.files(run_id).curves
        return {} if path is None else by_metric(path)

    @cache
    def pictures(run_id: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            (
                site.copy(path, f"pictures/{run_file(run_id)[:-5]}/{path.name}"),
                zlib.crc32(path.read_bytes()),
            )
            for path in report.files(run_id).pictures
        )

    empty = {n: unrun(d) for n, d in report.definitions.items() if not report.tables[n]}
    for number in report.definitions:
        tables = report.tables[number] or [empty[number]]
        for table in tables:
            stem, figures = page_stem(table), _figures(report, site, table)
            view = table_view(table, tables, curves, figures, pictures)
            page(f"tables/{stem}.html", "table.html", view)
            site.write(f"tables/{stem}/pairs.js", pairs_script(table))
            for row in table.definition.rows:
                site.write(f"tables/{stem}/{row.key}.js", row_script(report, table, row, curves))
            step()
    uses = uses_of_runs(report)
    children: dict[str, list[str]] = {}
    for run_id, record in report.records.items():
        for parent in record.get("parents") or ():
            children.setdefault(str(parent), []).append(run_id)
    for run_id, record in report.records.items():
        view = run_view(
            report,
            record,
            uses.get(run_id, ()),
            children.get(run_id, ()),
            curves(run_id),
            [file for file, _ in pictures(run_id)],
        )
        page(f"runs/{run_file(run_id)}", "run.html", view)
        step()
    page("runs.html", "runs.html", runs_view(report, uses))
    if report.before is not None:
        page("changes.html", "changes.html", changes_view(report, report.before))
    page("index.html", "front.html", front_view(report, empty))


def unrun(definition: TableDefinition) -> Table:
    """The table at tier small, or its first tier, before anything has run; its run ids stand for
    runs whose settings nobody has resolved."""
    tier = "small" if "small" in definition.seeds else next(iter(definition.seeds))
    planned: dict[tuple[str, str], list[str]] = {}
    for asked in requests(definition, tier):
        name = f"{asked.task} {asked.method} {asked.seed}"
        planned.setdefault((asked.row, asked.column), []).append(name)
    return build(definition, tier, planned, {})


def _figures(report: Report, site: Folder, table: Table) -> dict[str, str]:
    found = {}
    for figure in table.definition.figures:
        source = report.figures / f"{table.definition.id}-{figure.key}.{table.tier}.png"
        if source.is_file():
            found[figure.key] = site.copy(source, f"pictures/figures/{source.name}")
    return found
