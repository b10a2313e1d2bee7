"""sextant report: a folder of pages that show every table, made from the ledger."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs import code, ledger
from sextant.runs.compose import Composer
from sextant.runs.store import RunFolder
from sextant.tables.definition import TableDefinition, find_tables
from sextant.tables.table import Table, build
from sextant.verbs.arguments import read
from sextant.verbs.sparing import Spared
from sextant.verbs.tabling import TableRuns, runs_of

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

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    console = Console()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        spared = Spared()
        readable = bars.track(spared.tables(project), description="tables")
        now = read_state(
            project,
            project.ledger,
            readable,
            partial(code.stale, ledger=project.ledger),
            spared.table,
        )
        gc.freeze()  # it stays to the end, so the collector need not walk it again and again
        report = Report(
            register=read_register(project.root),
            definitions=now.definitions,
            tables=now.tables,
            runs=now.runs,
            records=now.records,
            stale=now.stale,
            figures=project.figures,
            files=run_files(project),
            before=other_state(project, now, asked.options.get("against")),
        )
        writing = bars.add_task("pages", total=steps(report))
        folder = project.results / "report"
        pages = write_site(report, folder, lambda: bars.advance(writing))
    print(f"{folder / 'index.html'}: {pages} pages")
    return spared.exit_code


@dataclass(frozen=True)
class State:
    """A ledger seen through the table files: every run in brief, the whole lines of the runs that
    tables show and of those they start from, and the tables filled at every tier with results."""

    definitions: Mapping[int, TableDefinition]
    runs: Mapping[str, ledger.Summary]
    records: Records
    stale: Collection[str]
    tables: dict[int, list[Table]]


def read_state(
    project: Project,
    folder: Path,
    definitions: Iterable[TableDefinition],
    stale_of: Callable[[Records], Collection[str]] = lambda records: frozenset(),
    spared: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> State:
    """The state of the ledger in a folder, by the settings of a project.

    Args:
        stale_of: gives the ids of the runs that were made by older code.
        spared: entered for what is done with one table; a table it gives up is left out.
    """
    runs = ledger.summaries(folder)
    known = {(run.task, run.method, run.tier) for run in runs.values()}
    composer = Composer(project.conf)
    planned: list[tuple[TableDefinition, dict[str, TableRuns]]] = []
    for definition in definitions:
        with spared():
            planned.append((definition, _planned(project, definition, composer, runs, known)))
    asked = (spec for _, tiers in planned for found in tiers.values() for spec in found.specs)
    wanted = {member.run_id for spec in asked for member in spec.lineage()}
    records: dict[str, Any] = {}
    while lacking := (wanted & runs.keys()) - records.keys():
        found = ledger.read(folder, lacking)
        records |= found
        wanted = {str(parent) for record in found.values() for parent in record["parents"]}
    stale = stale_of(records)
    tables: dict[int, list[Table]] = {}
    for definition, tiers in planned:
        with spared():
            tables[definition.number] = [
                build(definition, tier, found.cells, records, stale)
                for tier, found in tiers.items()
            ]
    kept = {d.number: d for d, _ in planned if d.number in tables}
    return State(kept, runs, records, stale, tables)


def _planned(
    project: Project,
    definition: TableDefinition,
    composer: Composer,
    runs: Mapping[str, ledger.Summary],
    known: Collection[tuple[str, str, str]],
) -> dict[str, TableRuns]:
    """The runs of a table at every tier with results, lowest first."""
    pairs = [(column.task, row.method) for column in definition.columns for row in definition.rows]
    planned = {}
    for tier in definition.seeds:
        # resolving settings takes most of the time, so a tier that nobody ran is left alone
        if any((*pair, tier) in known for pair in pairs):
            asked = runs_of(project, definition, tier, composer=composer)
            if any(spec.run_id in runs for spec in asked.specs):
                planned[tier] = asked
    return planned


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


def other_state(project: Project, now: State, against: str | None):
    """The tables of another state of the ledger, or None where none is asked for.

    A folder is read with the settings and table files of now, a revision with its own where they
    can still be read.

    Raises:
        UserError: for what is neither a folder with a ledger nor a revision that has one.
    """
    if against is None:
        return None
    from sextant.tables.report.contents import Before

    folder, definitions = Path(against), now.definitions.values()
    if folder.is_dir():
        if not any(folder.glob("*.jsonl")):
            raise UserError(f"against={against} is a folder without a ledger: it has no *.jsonl")
        return Before(against, read_state(project, folder, definitions).tables)
    with _checked_out(project.root, against) as root:
        then = Project(root, root / "results")
        try:
            return Before(against, read_state(then, then.ledger, find_tables(root)).tables)
        except UserError as error:
            print(
                f"the settings and table files of {against} cannot be read as they are read now "
                f"({error}); its ledger is shown with those of now"
            )
            tables = read_state(project, then.ledger, definitions).tables
            return Before(f"{against}, settings of now", tables)


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
