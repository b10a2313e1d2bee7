"""Judges the claims of a table: paired differences, one-sided t bounds, four answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from sextant.tables.cells import Cell
from sextant.tables.schema import Claim, Column, Margin, TableDefinition
from sextant.tables.statistics import (
    Interval,
    chance_of_falling_short,
    mean,
    one_sided,
    refuted,
    share_bounds,
)

STATUSES = ("holds", "fails", "inconclusive", "not_run")


@dataclass(frozen=True)
class Comparison:
    """One line against another, or against a number, in one column.

    `interval` is of the differences, turned so that above zero means the left side is better.
    `chance` is how often a claim that is just true would look as bad. `remark` says what kept the
    pair from an answer.
    """

    left: str
    right: str
    column: str
    status: str
    interval: Interval | None
    margin: float
    remark: str
    chance: float = 1.0


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


class Differences(NamedTuple):
    """How much better left is: one value an observation, and bounds of their mean."""

    values: list[float]
    interval: Interval | None


def differences(
    left: Cell, right: Cell | float, column: Column, observations: int | None = None
) -> Differences:
    """How much better left is, paired by seed, with one-sided 95 % bounds.

    Where all differences are equal and the scores are shares of few examples, the bounds are the
    exact binomial ones of the examples taken together: 0 of 50 is not known to be 0.

    Args:
        left: scores by seed.
        right: scores by seed, or one number.
        column: says what is better.
        observations: seeds that agree modulo this number share what matters (a class, models),
            so that their mean is one observation; None takes every seed for one.
    """
    quality = column.quality
    other = right.values if isinstance(right, Cell) else dict.fromkeys(left.values, right)
    by_observation: dict[int, list[float]] = {}
    for seed in sorted(left.values.keys() & other.keys()):
        group = seed if observations is None else seed % observations
        difference = quality(left.values[seed]) - quality(other[seed])
        by_observation.setdefault(group, []).append(difference)
    values = [mean(group) for group in by_observation.values()]
    equal = len(values) > 1 and min(values) == max(values)
    bounds = _bounds_of_shares(values, left, right, column) if equal else None
    return Differences(values, bounds or one_sided(values))


def _bounds_of_shares(
    values: list[float], left: Cell, right: Cell | float, column: Column
) -> Interval | None:
    """Bounds of equal differences of shares, from the examples behind them."""
    sides = [left, right] if isinstance(right, Cell) else [left]
    if column.target is not None or not all(side.counts for side in sides):
        return None
    lower = upper = values[0]
    for side, sign in zip(sides, (1, -1), strict=False):
        successes = sum(k for k, _ in side.counts.values())
        n = sum(n for _, n in side.counts.values())
        bounds = [100 * bound - 100 * successes / n for bound in share_bounds(successes, n)]
        turned = sign if column.better == "higher" else -sign
        low, high = sorted(turned * bound for bound in bounds)
        lower, upper = lower + low, upper + high
    return Interval(values[0], lower, upper, len(values))


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
    left: Cell,
    right: Cell | float,
    relation: str,
    column: Column,
    margin: float,
    observations: int | None = None,
) -> Comparison:
    """Compares two cells of a column, or a cell with a number.

    Missing or failed seeds, on either side, leave the answer inconclusive at best: what the other
    seeds say can still refute the claim, never confirm it. Runs that the column's guard marks, such
    as those that learned nothing, decide nothing.
    """
    sides = [left, right] if isinstance(right, Cell) else [left]
    name = right.line if isinstance(right, Cell) else f"{right:g}"
    holes = "; ".join(filter(None, (_holes(cell) for cell in sides)))
    values, interval = differences(left, right, column, observations)
    chance = 1.0
    if interval is not None:
        status, remark = decide(interval, relation, margin), holes
        edge = 0.0 if relation == "better_than" else -margin
        if status == "fails":
            chance = chance_of_falling_short(values, edge)
        guarded = [cell for cell in sides if cell.guarded]
        if guarded:
            marked = ", ".join(f"{cell.line}: {len(cell.guarded)}" for cell in guarded)
            status = "inconclusive"
            remark = "; ".join(filter(None, (f"runs marked ‡: {marked}", holes)))
        elif status == "holds" and holes:
            status = "inconclusive"
    elif any(not cell.values and not cell.failures for cell in sides):
        status, remark = "not_run", holes
    else:
        number = f"{len(values)} {_noun(len(values), observations)}"
        few = f"{number} in common, at least 2 needed"
        if len(values) > 1:
            few = f"{_better(values[0])} by {abs(values[0]):g} in each of {number}"
        status, remark = "inconclusive", "; ".join(filter(None, (few, holes)))
    if any(cell.stale for cell in sides):
        remark = "; ".join(filter(None, (remark, "some runs are older than the code")))
    return Comparison(left.line, name, column.key, status, interval, margin, remark, chance)


def _noun(number: int, observations: int | None) -> str:
    word = "seed" if observations is None else "independent observation"
    return word if number == 1 else f"{word}s"


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

    Each pair is tested at 5 %. For `holds` that needs no correction, since all must hold; one of
    many pairs crosses a bound by chance, so `fails` asks for the level of all pairs together
    (Holm's).
    """
    comparisons = []
    observations = table.observations.get(tier)
    for column in (c for c in table.all_columns if c.key in claim.columns):
        margin = _margin(claim, table, column)
        for name in claim.rows:
            left = cells[name, column.key]
            rights = [cells[other, column.key] for other in claim.than_rows]
            for right in rights if claim.than is None else [claim.than]:
                sides = [left, right] if isinstance(right, Cell) else [left]
                if all(cell.applicable for cell in sides):
                    comparisons.append(
                        compare(left, right, claim.relation, column, margin, observations)
                    )
    comparisons = corrected(comparisons)
    status = combine([comparison.status for comparison in comparisons])
    figure = _figure(claim, table, comparisons, observations)
    return ClaimResult(claim.id, claim.text, status, figure, tier, tuple(comparisons))


def corrected(comparisons: list[Comparison], level: float = 0.05) -> list[Comparison]:
    """The pairs of a claim with `fails` only where it stands at the joint level of all of them."""
    tested = [index for index, pair in enumerate(comparisons) if pair.interval is not None]
    falls = dict(
        zip(tested, refuted([comparisons[index].chance for index in tested], level), strict=True)
    )
    return [
        replace(
            pair,
            status="inconclusive",
            remark="; ".join(
                filter(None, (f"not below 5 % over {len(tested)} pairs", pair.remark))
            ),
        )
        if pair.status == "fails" and not falls[index]
        else pair
        for index, pair in enumerate(comparisons)
    ]


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


def _figure(
    claim: Claim,
    table: TableDefinition,
    comparisons: list[Comparison],
    observations: int | None,
) -> str:
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
    return f"{_counts(comparisons)}{pair} {_measured(worst, claim, column, observations)}{tail}."


def _measured(pair: Comparison, claim: Claim, column: Column, observations: int | None) -> str:
    """How much better or worse, and between which bounds, both with the sign of the word."""
    interval, digits = pair.interval, column.digits + 1
    bounds = (interval.lower, interval.upper)
    if interval.mean < 0:
        bounds = (-interval.upper, -interval.lower)
    allowed = f", margin {pair.margin:g}" if claim.relation == "at_least_as_good_as" else ""
    return (
        f"is {_better(interval.mean)} by {abs(interval.mean):.{digits}f}, one-sided 95 % bounds "
        f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}{allowed}, "
        f"{interval.n} {_noun(interval.n, observations)}"
    )


def _better(difference: float) -> str:
    return "better" if difference >= 0 else "worse"


def _counts(comparisons: list[Comparison]) -> str:
    if len(comparisons) == 1:
        return ""
    counts = Counter(comparison.status.replace("_", " ") for comparison in comparisons)
    listed = ", ".join(f"{counts[key]} {key}" for key in sorted(counts))
    return f"{len(comparisons)} pairs: {listed}; the worst: "
