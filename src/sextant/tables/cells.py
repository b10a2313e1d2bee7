"""One cell of a table: what its runs scored, what is missing, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sextant.tables.reading import TableError
from sextant.tables.schema import Column, Line, Margin, Published
from sextant.tables.statistics import mean, one_sided, sample_std

NOT_SCORED = "not scored"


@dataclass(frozen=True)
class Cell:
    """A line in a column.

    `values` are the scores by seed, `failures` the reasons by seed, `missing` the seeds nobody
    ran; together they are the `planned` seeds. `counts` are (successes, examples) by seed, where
    the score is a share of examples in percent. `guarded` are the seeds that the column's guard
    marks. `runs` are the ids of the runs in the ledger, in seed order.
    """

    line: str
    column: str
    planned: int
    values: Mapping[int, float] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    guarded: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    stale: bool = False
    applicable: bool = True
    published: Published | None = None
    verdict: str | None = None
    counts: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many seeds are done."""
        return len(self.values)

    @property
    def complete(self) -> bool:
        """Whether every planned seed is done."""
        return self.planned > 0 and self.n == self.planned

    @cached_property
    def mean(self) -> float | None:
        """Over the seeds that are done; None when none is."""
        return mean(list(self.values.values())) if self.values else None

    @cached_property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds; None below two."""
        return sample_std(list(self.values.values()))

    @property
    def reason(self) -> str:
        """Why runs failed, the most frequent reason first; empty when none did."""
        counts = Counter(self.failures.values())
        return "+".join(sorted(counts, key=lambda reason: (-counts[reason], reason)))

    @property
    def state(self) -> str:
        """done, partial, missing, failed:<reason>, stale or not_applicable."""
        if not self.applicable:
            return "not_applicable"
        if self.complete:
            return "stale" if self.stale else "done"
        if self.values:
            return "partial"
        return f"failed:{self.reason}" if self.failures else "missing"


def run_cell(
    line: Line,
    column: Column,
    planned: Mapping[int, str],
    records: Mapping[str, Mapping[str, Any]],
    stale: Collection[str],
) -> Cell:
    """The cell of a line in a column of runs.

    Args:
        planned: the run id of each seed.
        records: ledger lines by run id.
        stale: ids of runs made by older code.

    Raises:
        TableError: a ledger line contradicts the plan (its seed) or the table (its direction).
    """
    metric = column.metric if line.at is None else f"{column.metric}@{line.at}"
    values: dict[int, float] = {}
    failures: dict[int, str] = {}
    counts: dict[int, tuple[int, int]] = {}
    guarded: list[int] = []
    for seed, run_id in planned.items():
        record = records.get(run_id)
        if record is None:
            continue
        if record.get("seed", seed) != seed:
            raise TableError(
                f"planned: run {run_id} stands for seed {seed} of {line.row.key}/{column.key}, "
                f"but the ledger says seed {record['seed']}"
            )
        score = record.get("scores", {}).get(metric)
        if record.get("status") != "done":
            failures[seed] = str(record.get("reason") or "error")
        elif score is None or not math.isfinite(score["value"]):
            failures[seed] = NOT_SCORED if score is None else "diverged"
        elif score.get("better", column.better) != column.better:
            raise TableError(
                f"columns.{column.key}.better is {column.better}, but run {run_id} scored "
                f"{metric} with better: {score['better']}"
            )
        else:
            values[seed] = float(score["value"])
            if column.unit == "%" and (count := _count(score)) is not None:
                counts[seed] = count
            if not line.row.reference and _is_guarded(column, record["scores"]):
                guarded.append(seed)
    return Cell(
        line=line.key,
        column=column.key,
        planned=len(planned),
        values=values,
        failures=failures,
        counts=counts if counts.keys() == values.keys() else {},
        missing=tuple(seed for seed, run_id in planned.items() if run_id not in records),
        guarded=tuple(guarded),
        runs=tuple(run_id for run_id in planned.values() if run_id in records),
        stale=any(run_id in stale for run_id in planned.values() if run_id in records),
    )


def _count(score: Mapping[str, Any]) -> tuple[int, int] | None:
    """Successes and examples of a percentage, or None where it is no share of its examples."""
    n = int(score["n"])
    successes = float(score["value"]) * n / 100
    whole = round(successes)
    return (whole, n) if abs(successes - whole) < 1e-6 * n and 0 <= whole <= n else None


def _is_guarded(column: Column, scores: Mapping[str, Mapping[str, Any]]) -> bool:
    return column.guard is not None and scores.get(column.guard.metric, {}).get("value") == 0


def summary_cell(
    line: Line, column: Column, parts: Sequence[Cell], base: Sequence[Cell] = ()
) -> Cell:
    """The average of a line over columns: by seed, only for seeds that every column has done.

    With a `base`, the same columns of another line, it is 100 times the average over the base's, by
    seed; a seed that the base lacks is missing.
    """
    seeds = sorted({seed for cell in parts for seed in (*cell.values, *cell.failures)})
    values: dict[int, float] = {}
    failures: dict[int, str] = {}
    for seed in seeds:
        reasons = [cell.failures[seed] for cell in parts if seed in cell.failures]
        if reasons:
            failures[seed] = min(reasons)
        elif all(seed in cell.values for cell in parts):
            values[seed] = mean([cell.values[seed] for cell in parts])
    if base:
        whole = {seed for seed in values if all(seed in cell.values for cell in base)}
        levels = {seed: mean([cell.values[seed] for cell in base]) for seed in whole}
        values = {seed: 100 * values[seed] / level for seed, level in levels.items() if level > 0}
        failures |= {seed: NOT_SCORED for seed, level in levels.items() if level <= 0}
        parts = [*parts, *base]
    planned = max(cell.planned for cell in parts)
    missing = {seed for cell in parts for seed in cell.missing} - set(failures)
    return Cell(
        line=line.key,
        column=column.key,
        planned=planned,
        values=values,
        failures=failures,
        missing=tuple(sorted(missing)),
        guarded=tuple(sorted({seed for cell in parts for seed in cell.guarded})),
        runs=tuple(dict.fromkeys(run_id for cell in parts for run_id in cell.runs)),
        stale=any(cell.stale for cell in parts),
    )


def verdict(cell: Cell, printed: Published | None, margin: Margin | None, tier: str) -> str:
    """What our cell says about the printed one, for a row that is not a reference row.

    At tier paper: `reproduced` when our mean lies within the margin of the printed value,
    `differs` when it lies outside and so does the two-sided 95 % interval of our mean,
    `inconclusive` otherwise, with one seed, or while seeds are missing or failed; `agrees` when
    both failed; `not run` when there is nothing of ours. Below tier paper: `not comparable`.
    """
    if printed is None or printed.word == "NA":
        return "nothing printed"
    if printed.word == "not found":
        return "not found"
    if tier != "paper":
        return "not comparable"
    if not cell.values and not cell.failures:
        return "not run"
    if printed.word == "FAIL":
        if len(cell.failures) == cell.planned:
            return "agrees"
        return "differs" if cell.complete else "inconclusive"
    if len(cell.failures) == cell.planned:
        return "differs"
    spread = one_sided(list(cell.values.values()), 0.975)
    if not cell.complete or spread is None or printed.mean is None or margin is None:
        return "inconclusive"
    distance = abs(spread.mean - printed.mean)
    if distance <= margin.absolute:
        return "reproduced"
    reach = spread.upper - spread.mean
    far = distance - reach > margin.absolute
    return "differs" if far else "inconclusive"
