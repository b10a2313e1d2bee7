"""Two small table files, and a maker of ledger lines for them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sextant.schemas import checked
from sextant.tables.essay import Essay
from sextant.tables.reading import TableError
from sextant.tables.schema import TableDefinition
from sextant.tables.table_file import TableFile

PLANE = """
number: 12
id: otmf-1
title: One-step generation in the plane
paper: {key: ot_meanflow, where: the plane, printed: none, note: layout reconstructed}
data: generated, exact protocol
seeds: {smoke: [0], small: [0, 1, 2, 3, 4], paper: [0, 1, 2, 3, 4]}
checkpoint: {use: last, because: no validation split}
evaluations: {axis: NFE, at: [1, 2]}
columns:
  gaussians:
    label: "N(0,I) to 8 Gaussians"
    task: generation/gaussians
    metric: w2
    better: lower
    unit: W2
    digits: 3
  moons:
    label: "N(0,I) to two moons"
    task: generation/moons
    metric: w2
    better: lower
    unit: W2
rows:
  mean_flow: {label: Mean Flow, method: flow/mean_flow, deviations: ["EMA 0.99: not stated"]}
  ot_exact: {label: exact OT, method: flow/ot_exact}
  floor: {label: second draw, method: reference/second_draw, at: [1], reference: true}
margin: {absolute: 0.02, because: two standard errors of 2000 points}
claims:
  ot_better:
    text: At one step OT beats independent pairing.
    every: {rows: [ot_exact@1], columns: all}
    relation: better_than
    than: {row: mean_flow@1}
  one_step_enough:
    text: One OT step is as good as two independent ones.
    every: {rows: [ot_exact@1], columns: all}
    relation: at_least_as_good_as
    than: {row: mean_flow@2}
figures:
  samples: {make: figures.plane, caption: One-step samples, rows: [mean_flow, ot_exact]}
"""

PLANE_ESSAY = """# Deviations

- 400 points less
  than the paper

# Assumptions

- widths are ours
"""

ARENA = """
number: 1
id: luna-1
title: Accuracy
paper: {key: luna, where: Table 1, printed: part}
data: {small: generated stand-ins, paper: the benchmark itself}
seeds: {small: [0, 1, 2], paper: [0, 1, 2]}
checkpoint: {use: best, by: val/acc, because: as in the paper}
columns:
  listops: {label: ListOps, task: lra/listops, metric: acc, better: higher, unit: "%", digits: 1}
  pathx: {label: Path-X, task: lra/pathx, metric: acc, better: higher, unit: "%", digits: 1}
summary:
  avg: {label: Average, over: [listops, pathx], require: all}
rows:
  softmax: {label: softmax, method: attention/softmax}
  luna: {label: LUNA, method: attention/luna}
  linear: {label: linear, method: attention/linear, not_applicable: {pathx: runs out of positions}}
published:
  softmax: {listops: 36.4, pathx: FAIL, avg: NA}
  luna: {listops: {mean: 37.1, std: 0.3, n: 3, source: appendix}, pathx: 80.1, avg: 58.6}
  linear: {listops: not found}
margin:
  absolute: 1.0
  because: one standard error
  pathx: {absolute: 2.0, because: harder}
claims:
  best:
    text: LUNA has the best average
    every: {rows: [luna], columns: [avg]}
    relation: better_than
    than: {rows: [softmax]}
"""

SAID = {
    PLANE: Essay(deviations=["400 points less than the paper"], assumptions=["widths are ours"]),
    ARENA: Essay(),
}


def define(text: str, change: Callable[[dict[str, Any]], Any] | None = None) -> TableDefinition:
    """PLANE or ARENA as a definition, after `change` has edited the parsed mapping."""
    content = yaml.safe_load(text)
    if change is not None:
        change(content)
    file = "tasks/x/tables/t.yaml"
    return checked(TableFile, content, file, TableError).definition(file, SAID[text])


@pytest.fixture
def plane() -> TableDefinition:
    return define(PLANE)


@pytest.fixture
def arena() -> TableDefinition:
    return define(ARENA)


@pytest.fixture
def define_plane() -> Callable[..., TableDefinition]:
    return lambda change=None: define(PLANE, change)


@pytest.fixture
def define_arena() -> Callable[..., TableDefinition]:
    return lambda change=None: define(ARENA, change)


class Ledger:
    """A plan and ledger lines for a definition; run ids read `row/column/seed`."""

    def __init__(self, definition: TableDefinition, tier: str) -> None:
        self.definition, self.tier = definition, tier
        self.planned = {
            (row.key, column.key): [f"{row.key}/{column.key}/{s}" for s in definition.seeds[tier]]
            for row in definition.rows
            for column in definition.columns
            if definition.applies(row, column)
        }
        self.records: dict[str, dict[str, Any]] = {}

    def done(self, row: str, column: str, seed: int, scores: Mapping[str, float]) -> Ledger:
        task = next(c for c in self.definition.columns if c.key == column)
        method = next(r.method for r in self.definition.rows if r.key == row)
        run_id = f"{row}/{column}/{seed}"
        self.records[run_id] = {
            "run_id": run_id,
            "task": task.task,
            "method": method,
            "tier": self.tier,
            "seed": seed,
            "status": "done",
            "scores": {
                name: {"value": value, "n": 2000, "better": task.better, "standard_error": 0.01}
                for name, value in scores.items()
            },
            "spec": {"task": {"version": 1, "name": column}, "seed": seed},
            "parents": [],
            "provenance": {
                "commit": "0123456789abcdef",
                "dirty": False,
                "packages": {"torch": "2.14.0"},
                "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
                "device": "cpu",
                "data": {f"{column} law": "f00d"},
                "code": {},
            },
            "seconds": 36.0,
            "peak_memory_mb": 512.0,
        }
        return self

    def failed(self, row: str, column: str, seed: int, reason: str) -> Ledger:
        self.done(row, column, seed, {})
        record = self.records[f"{row}/{column}/{seed}"]
        record |= {"status": "failed", "reason": reason, "message": f"it was {reason}"}
        return self

    def fill(self, value: Callable[[str, str, int, int | None], float]) -> Ledger:
        """Finishes every run with `value(row, column, seed, at)` for each of its metrics."""
        for row, column in self.planned:
            found = next(r for r in self.definition.rows if r.key == row)
            metric = next(c.metric for c in self.definition.columns if c.key == column)
            for seed in self.definition.seeds[self.tier]:
                names = {f"{metric}@{k}": k for k in found.at} or {str(metric): None}
                scores = {name: value(row, column, seed, k) for name, k in names.items()}
                self.done(row, column, seed, scores)
        return self

    def copy(self) -> Ledger:
        return copy.deepcopy(self)


@pytest.fixture
def ledger() -> type[Ledger]:
    return Ledger


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project folder with the real register and one table file."""
    folder = tmp_path / "tasks" / "generation" / "tables"
    folder.mkdir(parents=True)
    (folder / "otmf-1.yaml").write_text(PLANE)
    (folder / "otmf-1.md").write_text(PLANE_ESSAY)
    real = Path(__file__).parents[2] / "tasks" / "register.yaml"
    (tmp_path / "tasks" / "register.yaml").write_text(real.read_text())
    return tmp_path
