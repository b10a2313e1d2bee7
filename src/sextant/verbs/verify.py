"""sextant verify: shows that changed code still makes the ledger's results."""

from __future__ import annotations

from sextant.errors import UserError
from sextant.paths import find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.tables.definition import find_table
from sextant.verbs.arguments import read

USAGE = """usage: sextant verify [N ...] [sample=K] [workers=N]

Results made by code that has changed since are marked stale. This carries out twins of them, short
runs of the same classes, with the code of the commit that made them and with today's code, on this
machine. Where scores and weights agree to the last bit the results are not stale any more, and
results/ledger/code/attested.jsonl says so; commit it. Where they differ, give what changed another
`version:` in its YAML, which asks for new runs, or take the change back.

  N        tables to look at; every result of the ledger where none is named
  sample   how many real runs at tier small, the cheapest, are twins too (default 3)
  workers  processes at a time (default 2)

Interrupted, it goes on where it stopped.

examples:
  sextant verify 12 13 sample=0
  sextant verify"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["?N"] * 100, ("sample", "workers"))
    if asked is None:
        return 0
    sample = asked.options.get("sample", "3")
    if not sample.isdigit():
        raise UserError(f"sample must be a whole number of at least 0, not {sample!r}")
    from sextant.runs.migrations import read_migrations
    from sextant.runs.verify import Verification, pairs_of
    from sextant.verbs.tabling import runs_of

    project = find_project()
    composer = Composer(project.conf)
    wanted = None
    if asked.words:
        specs = [
            spec
            for number in asked.words
            for definition in [find_table(project.root, number)]
            for tier in definition.seeds
            for spec in runs_of(project, definition, tier, composer=composer).specs
        ]
        wanted = {member.run_id for spec in specs for member in spec.lineage()}
    records = ledger.read(project.ledger, wanted)
    pairs, unknown = pairs_of(
        records, project.ledger, composer, read_migrations(project.conf), int(sample)
    )
    stale = sum(pair.runs for pair in pairs)
    print(f"{len(records)} runs, {stale} of them by {len(pairs)} codes that are not today's")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("twins", BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("twins", total=None)
        verification = Verification(
            project.root,
            project.ledger,
            project.results / "verify",
            lambda done, total: progress.update(bar, completed=done, total=total),
            asked.workers() if "workers" in asked.options else 2,
        )
        found = verification.compare(pairs)
    print(f"{len(found.equal)} of {len(pairs)} compute the same as before")
    for sentence in [*unknown, *found.unknown]:
        print(f"  not compared: {sentence}")
    for sentence in found.differ:
        print(f"  differs: {sentence}")
    if found.differ:
        print("give what changed another `version:` in its YAML, or take the change back")
    return 1 if found.differ else 0
