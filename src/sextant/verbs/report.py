"""sextant report: a folder of pages that show every table, made from the ledger."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs import ledger, provenance
from sextant.runs.compose import Composer
from sextant.runs.store import RunFolder
from sextant.tables.definition import TableDefinition, find_tables
from sextant.tables.table import Table, build
from sextant.verbs.arguments import read
from sextant.verbs.sparing import Spared
from sextant.verbs.tabling import runs_of

USAGE = """usage: sextant report [against=REVISION|FOLDER]

Writes results/report/index.html: every table beside the paper's, its claims, plots, and a page a
run. The folder needs no server and can be moved; a later report replaces it.

  against  another state of the ledger to show beside this one: a git revision, whose settings and
           table files count too, or the folder of another ledger

examples:
  sextant report against=HEAD~5
  sextant report"""
Records = Mapping[str, Mapping[str, Any]]
HELD = ("results/ledger", "conf", "tasks")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, [], ("against",))
    if asked is None:
        return 0
    project = find_project()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from sextant.tables.register import read_register
    from sextant.tables.report.contents import Report
    from sextant.tables.report.site import steps, write_site

    records = ledger.read(project.ledger)
    gc.freeze()  # the ledger stays to the end, so the collector need not walk it again and again
    stale = stale_runs(project, records)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    console = Console()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        spared, composer = Spared(), Composer(project.conf)
        definitions = spared.tables(project)
        planning = bars.add_task("tables", total=len(definitions))
        tables = {}
        for definition in definitions:
            with spared.table():
                tables[definition.number] = filled(project, composer, definition, records, stale)
            bars.advance(planning)
        definitions = [entry for entry in definitions if entry.number in tables]
        report = Report(
            register=read_register(project.root),
            definitions={definition.number: definition for definition in definitions},
            tables=tables,
            records=records,
            stale=stale,
            figures=project.figures,
            files=run_files(project),
            before=other_state(project, definitions, asked.options.get("against")),
        )
        writing = bars.add_task("pages", total=steps(report))
        folder = project.results / "report"
        pages = write_site(report, folder, lambda: bars.advance(writing))
    print(f"{folder / 'index.html'}: {pages} pages")
    return spared.exit_code


def filled(
    project: Project,
    composer: Composer,
    definition: TableDefinition,
    records: Records,
    stale: Collection[str] = frozenset(),
) -> list[Table]:
    """The table at every tier with results, lowest first."""
    known = {(record["task"], record["method"], record["tier"]) for record in records.values()}
    pairs = [(column.task, row.method) for column in definition.columns for row in definition.rows]
    tables = []
    for tier in definition.seeds:
        # resolving settings takes most of the time, so a tier that nobody ran is left alone
        if not any((*pair, tier) in known for pair in pairs):
            continue
        cells = runs_of(project, definition, tier, composer=composer).cells
        if any(run_id in records for ids in cells.values() for run_id in ids):
            tables.append(build(definition, tier, cells, records, stale))
    return tables


def stale_runs(project: Project, records: Records) -> frozenset[str]:
    """The ids of runs whose code has changed since; each module is looked at once."""

    @cache
    def changed(module: str, digest: str) -> bool:
        return bool(provenance.changed_code(project.root, {"code": {module: digest}}))

    return frozenset(
        run_id
        for run_id, record in records.items()
        if any(changed(*entry) for entry in (record["provenance"].get("code") or {}).items())
    )


def run_files(project: Project):
    """Finds the curves and pictures of a run; the folders that are here are listed once."""
    from sextant.tables.report.contents import RunFiles

    here = set(os.listdir(project.runs)) if project.runs.is_dir() else set()

    @cache
    def find(run_id: str) -> RunFiles:
        if run_id not in here:
            return RunFiles()
        folder = RunFolder(project.runs / run_id)
        return RunFiles(folder.curves, tuple(sorted(folder.pictures.glob("*.png"))))

    return find


def other_state(project: Project, now: Sequence[TableDefinition], against: str | None):
    """The tables of another state of the ledger, or None where none is asked for.

    A folder is read with the settings and table files of now, a revision with its own where they
    can still be read.

    Raises:
        UserError: for what is neither a folder with a ledger nor a revision that has one.
    """
    if against is None:
        return None
    from sextant.tables.report.contents import Before

    folder = Path(against)
    if folder.is_dir():
        if not any(folder.glob("*.jsonl")):
            raise UserError(f"against={against} is a folder without a ledger: it has no *.jsonl")
        return Before(against, all_filled(project, now, ledger.read(folder)))
    with _checked_out(project.root, against) as root:
        records = ledger.read(root / "results" / "ledger")
        try:
            then = Project(root, root / "results")
            return Before(against, all_filled(then, find_tables(root), records))
        except UserError as error:
            print(
                f"the settings and table files of {against} cannot be read as they are read now "
                f"({error}); its ledger is shown with those of now"
            )
            return Before(f"{against}, settings of now", all_filled(project, now, records))


def all_filled(
    project: Project, definitions: Sequence[TableDefinition], records: Records
) -> dict[int, list[Table]]:
    """Every table at every tier with results, by number."""
    composer = Composer(project.conf)
    return {d.number: filled(project, composer, d, records) for d in definitions}


@contextmanager
def _checked_out(root: Path, revision: str):
    """The ledger, settings and table files of a revision in a temporary folder."""
    asked = [
        "git",
        "-C",
        str(root),
        "archive",
        "--format=tar",
        f"{revision}^{{commit}}",
        "--",
        *HELD,
    ]
    try:
        answer = subprocess.run(asked, capture_output=True, timeout=120)
    except OSError as error:
        raise UserError(f"against={revision} needs git, which does not run: {error}") from None
    if answer.returncode != 0:
        said = " ".join(answer.stderr.decode(errors="replace").split())
        raise UserError(
            f"against={revision} is neither a folder nor a git revision with a ledger ({said})"
        )
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as archive:
            archive.extractall(temporary, filter="data")
        yield Path(temporary)
