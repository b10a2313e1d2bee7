"""sextant figures N: draws a table's figures from the samples its runs saved."""

from __future__ import annotations

from typing import Any

from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.store import RunFolder
from sextant.tables.definition import TableDefinition, find_table
from sextant.verbs.arguments import read
from sextant.verbs.tabling import TableRuns, runs_of

USAGE = """usage: sextant figures N [tier=small]

Draws the figures of table N into results/figures from the samples that runs on this machine saved.

example: sextant figures 12"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["N"], ("tier",))
    if asked is None:
        return 0
    project = find_project()
    definition = find_table(project.root, asked.words[0])
    tier = asked.tier()
    for note in draw(project, definition, tier, runs_of(project, definition, tier)):
        print(note)
    return 0


def draw(project: Project, definition: TableDefinition, tier: str, runs: TableRuns) -> list[str]:
    """Draws every figure whose samples are here; says of each where it is or why not."""
    from sextant.runs.build import find

    notes = []
    for figure in definition.figures:
        shown = _shown(project, definition, figure.rows, runs)
        path = project.figures / f"{definition.id}-{figure.key}.{tier}.png"
        missing = [entry["method_label"] for entry in shown if entry["arrays"] is None]
        if missing:
            notes.append(
                f"figure {figure.key}: no samples here of {missing[0]} ({len(missing)} runs)"
            )
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        find(figure.make)(shown, path)
        notes.append(f"figure {figure.key}: {path}")
    return notes


def _shown(project: Project, definition, rows, runs: TableRuns) -> list[dict[str, Any]]:
    """The first seed's run of every row and task, with its arrays where they are here."""
    import numpy as np

    shown, seen = [], set()
    records = ledger.read(project.ledger, [ids[0] for ids in runs.cells.values()])
    for column in definition.columns:
        for row in definition.rows:
            ids = runs.cells.get((row.key, column.key))
            if row.key not in rows or not ids or ids[0] in seen:
                continue
            seen.add(ids[0])
            samples = RunFolder(project.runs / ids[0]).samples
            record = records.get(ids[0], {})
            arrays = None
            if samples.is_file():
                with np.load(samples) as saved:
                    arrays = dict(saved)
            shown.append(
                {
                    "task": column.task,
                    "task_label": column.label,
                    "method": row.method,
                    "method_label": row.label,
                    "seed": record.get("seed"),
                    "arrays": arrays,
                    "scores": record.get("scores", {}),
                }
            )
    return shown
