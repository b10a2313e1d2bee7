"""What a table file says, as frozen values; `table_file` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sextant.runs.spec import TIERS as TIERS
from sextant.schemas import Count, Number, Positive, Schema, Text, nearest

WORDS = ("FAIL", "NA", "not found")


@dataclass(frozen=True)
class Paper:
    """Where the table stands in the literature; `printed` is full, part or none."""

    key: str
    where: str
    printed: str
    note: str | None = None
    title: str | None = None


class Checkpoint(Schema):
    """Which weights are examined: the `last`, or the `best` by a validation metric."""

    use: Literal["last", "best"]
    because: Text
    by: Text | None = None

    @model_validator(mode="after")
    def _by_validation(self) -> Checkpoint:
        if self.use == "best" and self.by is None:
            raise ValueError("lacks by: the best checkpoint needs a validation metric")
        if self.by is not None and self.by.startswith("test"):
            raise ValueError(f"has by: {self.by!r}, but test data never select anything")
        return self


class Guard(Schema):
    """Marks runs whose score `metric` is 0; `says` completes the sentence "runs that ..."."""

    metric: Text
    says: Text


@dataclass(frozen=True)
class Column:
    """One metric of one task, or (with `over`) the average of other columns, in percent of the
    average of the row `relative_to` where one is named.

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
    relative_to: str | None = None

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


class Published(Schema):
    """What the paper prints in a cell: a number, or one of the words FAIL, NA, not found.

    A file may write either alone, or as the `mean` of a mapping that says more.
    """

    mean: Number | None = None
    std: Annotated[Number, Field(ge=0)] | None = None
    n: Count | None = None
    word: Literal[WORDS] | None = None
    source: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _alone_or_mean(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            value = {"mean": value}
        mean = value.get("mean", value.get("word"))
        if isinstance(mean, str) and mean in WORDS:
            return {key: value[key] for key in value if key != "mean"} | {"word": mean}
        if isinstance(mean, bool) or not isinstance(mean, int | float):
            allowed = f"a number, a mapping with mean, or one of {', '.join(WORDS)}"
            raise ValueError(f"is {mean!r}; allowed: {allowed}{nearest(mean, WORDS)}")
        return value

    def as_written(self) -> float | str | dict[str, float | int]:
        """The number, the word, or a mapping when the spread or the seeds are printed too."""
        if self.word is not None or self.mean is None:
            return self.word or "not found"
        more = {"std": self.std, "n": self.n}
        known = {key: value for key, value in more.items() if value is not None}
        return {"mean": self.mean, **known} if known else self.mean


class Margin(Schema):
    """The largest difference that does not matter, in the column's unit, and why."""

    absolute: Positive
    because: Text


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
class Grid:
    """The cells of a table: rows at the points `at` of the evaluation axis, columns, averages."""

    at: tuple[int, ...]
    columns: tuple[Column, ...]
    summaries: tuple[Column, ...]
    rows: tuple[Row, ...]

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


@dataclass(frozen=True)
class TableDefinition(Grid):
    """One table file. `file` is its path below the project folder; `data` and `seeds` go by tier;
    `published` by (line, column); `margins` by column. Seeds that agree modulo `observations` of
    the tier are one observation (every seed is one, where there is none)."""

    file: str
    number: int
    id: str
    title: str
    paper: Paper
    data: Mapping[str, str]
    seeds: Mapping[str, tuple[int, ...]]
    checkpoint: Checkpoint
    axis: str | None
    published: Mapping[tuple[str, str], Published]
    margins: Mapping[str, Margin]
    claims: tuple[Claim, ...]
    deviations: tuple[str, ...]
    assumptions: tuple[str, ...]
    figures: tuple[Figure, ...]
    observations: Mapping[str, int] = field(default_factory=dict)
