"""sextant status [N]: how full each table is and what runs now."""

from __future__ import annotations

from sextant.paths import Project, find_project
from sextant.runs.lease import holder
from sextant.runs.plan import make_plan
from sextant.runs.store import read_json
from sextant.tables.definition import find_table, find_tables
from sextant.verbs.arguments import read
from sextant.verbs.plan import summary
from sextant.verbs.tabling import runs_of, tiers_with_results

USAGE = """usage: sextant status [N] [tier=small]

How many runs of each table are done, failed or missing, and which runs are being carried out now:
by whom, at which step.

example: sextant status 12"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["?N"], ("tier",))
    if asked is None:
        return 0
    project = find_project()
    if asked.words:
        definitions = [find_table(project.root, asked.words[0])]
    else:
        definitions = find_tables(project.root)
    for definition in definitions:
        tiers = tiers_with_results(project, definition) or ["small"]
        for tier in [asked.tier()] if "tier" in asked.options else tiers:
            runs = runs_of(project, definition, tier)
            print(
                summary(
                    definition.number, tier, make_plan(runs.specs, project.ledger, project.runs)
                )
            )
    for line in running(project):
        print(line)
    return 0


def running(project: Project) -> list[str]:
    """One line for each run whose lease is held."""
    lines = []
    for folder in sorted(project.runs.glob("*/")) if project.runs.is_dir() else []:
        owner = holder(folder / "lease")
        if owner is None or not (folder / "spec.json").is_file():
            continue
        spec = read_json(folder / "spec.json")
        line = f"running: {spec['task']} {spec['method']} seed {spec['seed']} ({owner})"
        if (folder / "state.json").is_file():
            state = read_json(folder / "state.json")
            metrics = ", ".join(f"{key} {value:.4g}" for key, value in state["metrics"].items())
            line += f": step {state['step']} of {state['steps']} {metrics}"
        lines.append(line)
    return lines
