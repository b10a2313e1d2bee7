"""Judges the claims of a table: seed by seed differences, a one-sided t bound, four answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sextant.tables.cells import Cell
from sextant.tables.schema import Claim, Column, Margin, TableDefinition
from sextant.tables.statistics import Interval, one_sided

STATUSES = ("holds", "fails", "inconclusive", "not_run")


@dataclass(frozen=True)
class Comparison:
    """One line against another, or against a number, in one column.

    `interval` is of the differences, turned so that above zero means the left side is better.
    `remark` says what kept it from an answer.
    """

    left: str
    right: str
    column: str
    status: str
    interval: Interval | None
    margin: float
    remark: str


@dataclass(frozen=True)
class ClaimResult:
    """The answer to a claim: `status` is one of STATUSES, `figure` the sentence with the worst
    comparison."""

    id: str
    text: str
    status: str
    figure: str
    tier: str
    comparisons: tuple[Comparison, ...]


def difference(
    left: Mapping[int, float], right: Mapping[int, float] | float, column: Column
) -> Interval | None:
    """How much better left is, paired by seed, with one-sided 95 % bounds.

    Args:
        left: scores by seed.
        right: scores by seed, or one number.
        column: says what is better.

    Returns:
        None with fewer than two common seeds.
    """
    quality = column.quality
    if isinstance(right, Mapping):
        common = [seed for seed in sorted(left) if seed in right]
        return one_sided([quality(left[seed]) - quality(right[seed]) for seed in common])
    return one_sided([quality(left[seed]) - quality(right) for seed in sorted(left)])


def decide(interval: Interval, relation: str, margin: float) -> str:
    """`holds`, `fails` or `inconclusive` at the one-sided 5 % level.

    `better_than` holds when the lower bound is above zero and fails when the upper is below;
    `at_least_as_good_as` is non-inferiority, so the same with minus the margin in place of zero.
    """
    edge = 0.0 if relation == "better_than" else -margin
    if interval.lower > edge:
        return "holds"
    return "fails" if interval.upper < edge else "inconclusive"


def compare(
    left: Cell, right: Cell | float, relation: str, column: Column, margin: float
) -> Comparison:
    """Compares two cells of a column, or a cell with a number.

    Missing or failed seeds, on either side, leave the answer inconclusive at best: what the other
    seeds say can still refute the claim, never confirm it.
    """
    sides = [left, right] if isinstance(right, Cell) else [left]
    name = right.line if isinstance(right, Cell) else f"{right:g}"
    holes = "; ".join(filter(None, (_holes(cell) for cell in sides)))
    values = right.values if isinstance(right, Cell) else right
    interval = difference(left.values, values, column)
    if interval is not None:
        status, remark = decide(interval, relation, margin), holes
        if status == "holds" and holes:
            status = "inconclusive"
        if not interval.decides:
            status, alike = "inconclusive", "two equal differences say nothing of their spread"
            remark = "; ".join(filter(None, (alike, holes)))
    elif any(not cell.values and not cell.failures for cell in sides):
        status, remark = "not_run", holes
    else:
        common = set(left.values)
        common &= set(values) if isinstance(values, Mapping) else common
        word = "seed" if len(common) == 1 else "seeds"
        few = f"{len(common)} {word} in common, at least 2 needed"
        status, remark = "inconclusive", "; ".join(filter(None, (few, holes)))
    if any(cell.stale for cell in sides):
        remark = "; ".join(filter(None, (remark, "some runs are older than the code")))
    return Comparison(left.line, name, column.key, status, interval, margin, remark)


def _holes(cell: Cell) -> str:
    parts = []
    if cell.failures:
        parts.append(f"{len(cell.failures)}/{cell.planned} failed ({cell.reason})")
    if cell.missing:
        parts.append(f"{len(cell.missing)}/{cell.planned} missing")
    return f"{cell.line}: {', '.join(parts)}" if parts else ""


def judge(
    claim: Claim,
    table: TableDefinition,
    cells: Mapping[tuple[str, str], Cell],
    tier: str,
) -> ClaimResult:
    """The answer to a claim over all its pairs: all hold, so it holds; any fails, so it fails.

    Each pair is tested at 5 %. For `holds` that needs no correction (all must hold); with many
    pairs a chance `fails` is likelier than 5 %, so the sentence gives the number of pairs.
    """
    comparisons = []
    for column in (c for c in table.all_columns if c.key in claim.columns):
        margin = _margin(claim, table, column)
        for name in claim.rows:
            left = cells[name, column.key]
            rights = [cells[other, column.key] for other in claim.than_rows]
            for right in rights if claim.than is None else [claim.than]:
                sides = [left, right] if isinstance(right, Cell) else [left]
                if all(cell.applicable for cell in sides):
                    comparisons.append(compare(left, right, claim.relation, column, margin))
    status = combine([comparison.status for comparison in comparisons])
    figure = _figure(claim, table, comparisons)
    return ClaimResult(claim.id, claim.text, status, figure, tier, tuple(comparisons))


def combine(statuses: list[str]) -> str:
    """One answer from the answers of all pairs."""
    if "fails" in statuses:
        return "fails"
    for same in ("holds", "not_run"):
        if all(status == same for status in statuses):
            return same
    return "inconclusive"


def _margin(claim: Claim, table: TableDefinition, column: Column) -> float:
    if claim.relation == "better_than":
        return 0.0
    margin: Margin = claim.margin or table.margins[column.key]
    return margin.absolute


def _badness(comparison: Comparison) -> tuple[int, float]:
    """Sorts the pair that speaks loudest against the claim first."""
    rank = {"fails": 0, "inconclusive": 1, "not_run": 2, "holds": 4}[comparison.status]
    interval = comparison.interval
    if interval is None:
        return (3 if rank == 1 else rank, 0.0)  # a pair with numbers says more
    reach = interval.upper - interval.mean
    gain = interval.mean + comparison.margin
    return rank, gain / reach if reach > 0 else math.copysign(math.inf, gain) if gain else 0.0


def _figure(claim: Claim, table: TableDefinition, comparisons: list[Comparison]) -> str:
    worst = min(comparisons, key=_badness)
    labels = {
        line.key: line.row.label + ("" if line.at is None else f" ({table.axis} {line.at})")
        for line in table.lines
    }
    column = next(c for c in table.all_columns if c.key == worst.column)
    pair = f"{labels[worst.left]} against {labels.get(worst.right, worst.right)} on {column.label}"
    tail = f" ({worst.remark})" if worst.remark else ""
    if all(comparison.status == "not_run" for comparison in comparisons) and len(comparisons) > 1:
        return f"None of {len(comparisons)} pairs was run."
    if worst.interval is None:
        return f"{_counts(comparisons)}{pair}: no difference can be tested{tail}."
    digits, interval = column.digits + 1, worst.interval
    direction = "better" if interval.mean >= 0 else "worse"
    bounds = f"{interval.lower:.{digits}f} to {interval.upper:.{digits}f}"
    allowed = f", margin {worst.margin:g}" if claim.relation == "at_least_as_good_as" else ""
    return (
        f"{_counts(comparisons)}{pair} is {direction} by {abs(interval.mean):.{digits}f}, "
        f"one-sided 95 % bounds {bounds}{allowed}, {interval.n} seeds{tail}."
    )


def _counts(comparisons: list[Comparison]) -> str:
    if len(comparisons) == 1:
        return ""
    counts = Counter(comparison.status.replace("_", " ") for comparison in comparisons)
    listed = ", ".join(f"{counts[key]} {key}" for key in sorted(counts))
    return f"{len(comparisons)} pairs: {listed}; the worst: "
