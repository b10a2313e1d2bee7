"""sextant ledger: rebuilds the ledger from W&B, or follows renames."""

from __future__ import annotations

import os
import re
from collections import Counter

from sextant.errors import UserError, unknown
from sextant.files import read_json, write_json
from sextant.paths import find_project
from sextant.runs import ledger
from sextant.runs.migrations import migrate_frozen, read_migrations
from sextant.runs.store import RunFolder
from sextant.verbs.arguments import read
from sextant.wandb.importing import import_lines, lines_of

USAGE = """usage: sextant ledger import wandb://ENTITY/PROJECT
       sextant ledger migrate

import adds to results/ledger every run that the W&B project has and the ledger lacks. Nothing is
taken on trust: a run comes only if its settings give the id it is kept under. A line that is here
stays, unless it says that the run failed and W&B says that it was done.

migrate gives every run the id that its settings have under the names of conf/migrations.yaml. A
line keeps its former ids, run folders follow. `sextant verify` then shows that the renamed code
computes the same.

example: sextant ledger import wandb://my-team/sextant"""
SOURCE = re.compile(r"wandb://([\w.-]+)/([\w.-]+)")


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["import|migrate", "?wandb://ENTITY/PROJECT"], ())
    if asked is None:
        return 0
    action, *source = asked.words
    if action not in ("import", "migrate"):
        raise unknown("ledger command", action, ["import", "migrate"])
    return import_from(source[0] if source else "") if action == "import" else migrate_here()


def migrate_here() -> int:
    """Rewrites the ledger under today's names."""
    project = find_project()
    migrations = read_migrations(project.conf)
    moved = ledger.migrate(project.ledger, migrations)
    for old, new in moved.items():
        folder = project.runs / old
        if folder.is_dir() and not (project.runs / new).exists():
            spec = RunFolder(folder).spec
            if spec.is_file():
                write_json(spec, migrate_frozen(read_json(spec), migrations))
            folder.rename(project.runs / new)
    print(f"{len(moved)} runs have another id; their lines keep the former ones")
    if moved:
        print("`sextant verify` shows that the renamed code computes the same")
    return 0


def import_from(source: str) -> int:
    """Adds the runs of a W&B project."""
    place = SOURCE.fullmatch(source)
    if place is None:
        raise UserError(f"the source must look like wandb://ENTITY/PROJECT, not {source!r}")
    project = find_project()
    os.environ.setdefault("WANDB_DIR", str(project.results))  # its logs, else in the checkout
    outcome = import_lines(
        lines_of(place[1], place[2]), project.ledger, read_migrations(project.conf)
    )
    print(f"{len(outcome.came)} runs came, {len(outcome.here)} were here already")
    for name, why in outcome.kept:
        print(f"  {name} {why}; the local line stays")
    reasons = Counter(why for _, why in outcome.refused)
    for why, count in reasons.most_common():
        names = [name for name, reason in outcome.refused if reason == why]
        more = f" and {count - 5} more" if count > 5 else ""
        print(f"  refused {count}: {why} ({', '.join(names[:5])}{more})")
    if outcome.came:
        print("`sextant table all` refills the tables from it")
    return 0
