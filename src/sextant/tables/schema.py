"""What a table file says, as frozen values; `definition` reads them, nothing else makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sextant.runs.spec import TIERS as TIERS

WORDS = ("FAIL", "NA", "not found")
RELATIONS = ("better_than", "at_least_as_good_as")


@dataclass(frozen=True)
class Paper:
    """Where the table stands in the literature; `printed` is full, part or none."""

    key: str
    where: str
    printed: str
    note: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Which weights are examined: the `last`, or the `best` by a validation metric."""

    use: str
    because: str
    by: str | None = None


@dataclass(frozen=True)
class Guard:
    """Marks runs whose score `metric` is 0; `says` completes the sentence "runs that ..."."""

    metric: str
    says: str


@dataclass(frozen=True)
class Column:
    """One metric of one task, or (with `over`) the average of other columns.

    With `at`, the metric is scored at these points of the evaluation axis only. A `guard` marks
    runs whose number should not be read as a result, such as those that learned nothing. With a
    `target`, the nearer to it the better, such as 50 % for an attack that guesses.
    """

    key: str
    label: str
    better: str
    digits: int
    unit: str | None = None
    task: str | None = None
    metric: str | None = None
    over: tuple[str, ...] = ()
    at: tuple[int, ...] = ()
    guard: Guard | None = None
    target: float | None = None

    def quality(self, value: float) -> float:
        """How good a score is: the larger the better."""
        if self.target is not None:
            return -abs(value - self.target)
        return value if self.better == "higher" else -value


@dataclass(frozen=True)
class Row:
    """One method. `at` is empty for a row that is evaluated once, with the plain metric names.

    A `reference` row is shown without a verdict and never counted in claims. `not_applicable`
    maps the columns the method cannot fill to the reason.
    """

    key: str
    label: str
    method: str
    at: tuple[int, ...]
    reference: bool
    deviations: tuple[str, ...]
    not_applicable: Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """One printed line: a row, at one point of the evaluation axis where there is one."""

    row: Row
    at: int | None

    @property
    def key(self) -> str:
        """`row` or `row@at`, the name that claims, published values and cells use."""
        return self.row.key if self.at is None else f"{self.row.key}@{self.at}"


@dataclass(frozen=True)
class Published:
    """What the paper prints in a cell: a number, or one of the words FAIL, NA, not found."""

    mean: float | None = None
    std: float | None = None
    n: int | None = None
    word: str | None = None
    source: str | None = None

    def as_written(self) -> float | str | dict[str, float | int]:
        """The number, the word, or a mapping when the spread or the seeds are printed too."""
        if self.word is not None or self.mean is None:
            return self.word or "not found"
        more = {"std": self.std, "n": self.n}
        known = {key: value for key, value in more.items() if value is not None}
        return {"mean": self.mean, **known} if known else self.mean


@dataclass(frozen=True)
class Margin:
    """The largest difference that does not matter, in the column's unit, and why."""

    absolute: float
    because: str


@dataclass(frozen=True)
class Claim:
    """A sentence about the cells: every line of `rows`, in every one of `columns`, stands in
    `relation` to every line of `than_rows` in the same column, or to the number `than`."""

    id: str
    text: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    relation: str
    than_rows: tuple[str, ...] = ()
    than: float | None = None
    margin: Margin | None = None


@dataclass(frozen=True)
class Figure:
    """A picture made from the saved arrays of some rows by a function named in dotted form."""

    key: str
    make: str
    caption: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class TableDefinition:
    """One table file. `file` is its path below the project folder; `data` and `seeds` go by tier;
    `published` by (line, column); `margins` by column."""

    file: str
    number: int
    id: str
    title: str
    paper: Paper
    data: Mapping[str, str]
    seeds: Mapping[str, tuple[int, ...]]
    checkpoint: Checkpoint
    axis: str | None
    at: tuple[int, ...]
    columns: tuple[Column, ...]
    summaries: tuple[Column, ...]
    rows: tuple[Row, ...]
    published: Mapping[tuple[str, str], Published]
    margins: Mapping[str, Margin]
    claims: tuple[Claim, ...]
    deviations: tuple[str, ...]
    assumptions: tuple[str, ...]
    figures: tuple[Figure, ...]

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every printed line: by point of the evaluation axis, then by row; rows evaluated once
        come last."""
        points = list(self.at)
        points += sorted({k for row in self.rows for k in row.at} - set(points))
        lines = [Line(row, k) for k in points for row in self.rows if k in row.at]
        return (*lines, *(Line(row, None) for row in self.rows if not row.at))

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The columns, then the averages over them."""
        return (*self.columns, *self.summaries)

    def applies(self, row: Row, column: Column) -> bool:
        """Whether the row can fill the column; an average needs all of its columns."""
        return not any(key in row.not_applicable for key in (column.key, *column.over))

    def fills(self, line: Line, column: Column) -> bool:
        """Whether the line has the column: its row does, at this point of the evaluation axis."""
        parts = [part for part in self.columns if part.key in (column.key, *column.over)]
        scored = all(line.at is None or not part.at or line.at in part.at for part in parts)
        return scored and self.applies(line.row, column)
