"""sextant table N: the table from the ledger alone."""

from __future__ import annotations

from pathlib import Path

from sextant.paths import Project, find_project
from sextant.runs.compose import Composer
from sextant.tables.definition import find_table
from sextant.tables.table import Table
from sextant.verbs.arguments import read
from sextant.verbs.sparing import Spared
from sextant.verbs.tabling import fill, runs_of, tiers_with_results

USAGE = """usage: sextant table N|all [tier=small] [format=terminal] [seeds=0,1]

Prints table N from the ledger, without running anything. `all` rewrites every file in
results/tables and the generated parts of README.md and REPRODUCE.md from the ledger.

  tier    smoke, small, gpu or paper (default: the highest with results)
  format  terminal, md, tex, csv or json
  seeds   instead of the table's own: 0,1,2 or 0-4

example: sextant table 12 format=md"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], ("tier", "format", "seeds"))
    if asked is None:
        return 0
    project = find_project()
    from sextant.tables import render

    if asked.words[0] == "all":
        spared = Spared()
        for path in refill(project, spared):
            print(path)
        return spared.exit_code
    definition, composer = find_table(project.root, asked.words[0]), Composer(project.conf)
    shape, seeds = asked.choice("format", ("terminal", *render.FORMATS), "terminal"), asked.seeds()
    if "tier" in asked.options:
        tier = asked.tier()
    else:
        tier = (tiers_with_results(project, definition, composer) or ["small"])[-1]
    runs = runs_of(project, definition, tier, seeds, composer)
    table = fill(project, definition, tier, runs, seeds)
    if shape == "terminal":
        render.terminal(table)
    else:
        print(render.FORMATS[shape](table), end="")
    return 0


def refill(project: Project, spared: Spared) -> list[Path]:
    """Rewrites every table file and generated page from the ledger; says which files changed.

    README.md and REPRODUCE.md stay as they are while a table is broken: they list all tables.
    """
    from sextant.tables import pages, render
    from sextant.tables.register import read_register

    filled: dict[int, list[Table]] = {}
    written: list[Path] = []
    composer = Composer(project.conf)
    for definition in spared.tables(project):
        with spared.table():
            filled[definition.number] = []
            for tier in tiers_with_results(project, definition, composer):
                runs = runs_of(project, definition, tier, composer=composer)
                table = fill(project, definition, tier, runs)
                written += render.write_all(table, project.tables)
                filled[definition.number].append(table)
    if project.results == project.root / "results" and spared.exit_code == 0:
        generated = pages.parts(read_register(project.root), filled)
        written += pages.write_pages(project.root, generated)
    return written
