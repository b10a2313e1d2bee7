"""sextant explain N ROW/COLUMN: where a cell comes from."""

from __future__ import annotations

from sextant.errors import UserError
from sextant.paths import find_project
from sextant.runs.compose import Composer
from sextant.tables.definition import find_table
from sextant.verbs.arguments import read
from sextant.verbs.tabling import fill, runs_of, tiers_with_results

USAGE = """usage: sextant explain N ROW/COLUMN [tier=small]

The runs behind a cell: seed, status, score, settings, commit, data, time, and the command that
makes each again. ROW may carry its evaluation, as in ot_exact@1.

example: sextant explain 12 ot_exact@1/moons"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N", "ROW/COLUMN"], ("tier",))
    if asked is None:
        return 0
    row, slash, column = asked.words[1].rpartition("/")
    if not slash:
        raise UserError(f"a cell is ROW/COLUMN, as in ot_exact@1/moons, not {asked.words[1]!r}")
    project = find_project()
    definition = find_table(project.root, asked.words[0])
    composer = Composer(project.conf)
    found = tiers_with_results(project, definition, composer) or ["small"]
    tier = asked.tier() if "tier" in asked.options else found[-1]
    runs = runs_of(project, definition, tier, composer=composer)
    table = fill(project, definition, tier, runs)
    from sextant.tables.explain import explain

    print(explain(table, row, column), end="")
    return 0
