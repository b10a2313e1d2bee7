"""Where chosen settings and the scores of their grids are written."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COLUMNS = ("method", "tier", "seeds", "setting", "kept %", "forgotten %", "chosen")
PLACE = "method.module.method"


@dataclass(frozen=True)
class Judged:
    """One setting of a grid.

    Args:
        seeds: those whose mean the scores are, separated by blanks.
        kept: percent right of what is kept, on what the method may see.
        forgotten: the same of what is to be forgotten.
    """

    method: str
    tier: str
    seeds: str
    setting: Mapping[str, Any]
    kept: float
    forgotten: float
    chosen: bool


def write_settings(
    conf: Path,
    task: str,
    settings: Mapping[str, Mapping[str, Any]],
    judged_on: str,
    place: str = PLACE,
) -> None:
    """Puts settings by method into conf/tuned/<task>.yaml; those of other methods stay.

    Args:
        judged_on: the task on which the grids were carried out.
        place: where in a run's config settings go.
    """
    path = conf / "tuned" / f"{task}.yaml"
    known = yaml.safe_load(path.read_text()) if path.exists() else {}
    lines = [f"# @package {place}", "# Written by tuning/, which keeps the scores of the grids in"]
    lines += [
        f"# {scores_file(Path(), judged_on)}. An ablation takes over what was chosen for another."
    ]
    texts = {method: flow(setting) for method, setting in sorted({**known, **settings}.items())}
    for method, text in texts.items():
        # An ablation is called after the method it differs from and comes after it.
        of = next((m for m in texts if method.startswith(f"{m}_") and texts[m] == text), None)
        named = any(m.startswith(f"{method}_") and texts[m] == text for m in texts)
        anchor = f"&{method.rpartition('/')[2]} " if named else ""
        lines.append(f"{method}: *{of.rpartition('/')[2]}" if of else f"{method}: {anchor}{text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def flow(setting: Mapping[str, Any]) -> str:
    """A setting on one line of YAML."""
    return yaml.safe_dump(
        dict(setting), default_flow_style=True, sort_keys=False, width=1000
    ).strip()


def scores_file(root: Path, task: str) -> Path:
    """Where the scores of a task's grids stand."""
    return root / "results" / "tuning" / f"{task.replace('/', '-')}.csv"


def write_scores(root: Path, task: str, method: str, grid: Iterable[Judged]) -> None:
    """Puts the scores of a method's grid into the file of its task; other methods' stay."""
    path = scores_file(root, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[str]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if row[0] != method]
    for one in grid:
        scores = f"{one.kept:.1f}", f"{one.forgotten:.1f}"
        rows.append((method, one.tier, one.seeds, flow(one.setting), *scores, "yes" * one.chosen))
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [COLUMNS, *sorted(rows, key=lambda r: r[0])]
        )
