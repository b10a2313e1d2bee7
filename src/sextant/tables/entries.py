"""The schemas of a table file's entries, and the values they become beside one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)

from sextant.schemas import Flag, Number, Positive, Schema, Text, Texts, Whole, Wholes
from sextant.tables.schema import Claim, Column, Grid, Guard, Margin, Row

ALL = ("all",)
# `all`, or a list of names
AllOrNames = Annotated[Texts, BeforeValidator(lambda value: ALL if value == "all" else value)]


class PaperEntry(Schema):
    key: Text
    where: Text
    printed: Literal["full", "part", "none"]
    note: Text | None = None


class Evaluations(Schema):
    axis: Text
    at: Wholes


class ColumnEntry(Schema):
    label: Text
    better: Literal["higher", "lower"]
    digits: Whole = 3
    unit: Text | None = None
    task: Text
    metric: Text
    at: Wholes = ()
    guard: Guard | None = None
    target: Number | None = None


class AverageEntry(Schema):
    """An average over columns; what it does not say it takes from them. With `relative_to`, a row,
    it is 100 times the average over that row's."""

    over: Annotated[Texts, Field(min_length=2)]
    require: Literal["all"] = "all"
    relative_to: Text | None = None
    label: Text | None = None
    digits: Whole | None = None
    unit: Text | None = None

    def column(self, key: str, columns: Mapping[str, ColumnEntry]) -> Column:
        parts = [columns[name] for name in self.over]
        return Column(
            key=key,
            label=self.label or key,
            better=parts[0].better,
            digits=max(part.digits for part in parts) if self.digits is None else self.digits,
            unit=self.unit or parts[0].unit,
            over=self.over,
            relative_to=self.relative_to,
        )


class RowEntry(Schema):
    """A method; `at` is a list of points, `once`, or nothing for all points of the table."""

    label: Text
    method: Text
    at: Annotated[
        Wholes | None, WrapValidator(lambda value, read: () if value == "once" else read(value))
    ] = None
    reference: Flag = False
    deviations: Texts = ()
    not_applicable: dict[str, Text] = Field({})


class Margins(Schema):
    """A margin for all columns, and a column's own before that, under its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Margin]

    absolute: Positive | None = None
    because: Text | None = None

    @model_validator(mode="after")
    def _reasoned(self) -> Margins:
        for name in ("absolute", "because"):
            if getattr(self, name) is None and (not self.own or self.absolute or self.because):
                raise ValueError(f"lacks {name}")
        return self

    @property
    def own(self) -> dict[str, Margin]:
        return self.__pydantic_extra__

    def of(self, columns: tuple[Column, ...]) -> dict[str, Margin]:
        common = {}
        if self.absolute is not None and self.because is not None:
            margin = Margin(absolute=self.absolute, because=self.because)
            common = dict.fromkeys([column.key for column in columns], margin)
        return common | self.own


class Every(Schema):
    rows: AllOrNames
    columns: AllOrNames


class Than(Schema):
    """A number, one row or several rows."""

    number: Number | None = None
    row: Text | None = None
    rows: Annotated[Texts, Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_three(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            return {"number": value}
        if isinstance(value, Mapping) and len(value) == 1:
            return value
        raise ValueError("must be a number, {row: name} or {rows: [names]}")

    @property
    def names(self) -> tuple[str, ...]:
        """The lines compared with; none where it is a number."""
        return self.rows or ((self.row,) if self.row else ())


class ClaimEntry(Schema):
    text: Text
    every: Every
    relation: Literal["better_than", "at_least_as_good_as"]
    than: Than
    margin: Margin | None = None

    def claim(self, key: str, grid: Grid) -> Claim:
        """The claim about the lines of a table; `all` leaves out reference rows and the lines
        compared with."""
        rows, columns = self.every.rows, self.every.columns
        if rows == ALL:
            counted = [line.key for line in grid.lines if not line.row.reference]
            rows = tuple(name for name in counted if name not in self.than.names)
        if columns == ALL:
            columns = tuple(column.key for column in grid.columns)
        return Claim(
            id=key,
            text=self.text,
            rows=rows,
            columns=columns,
            relation=self.relation,
            than_rows=self.than.names,
            than=self.than.number,
            margin=self.margin,
        )


def _dotted(name: str) -> str:
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"must be a function in dotted form, got {name!r}")
    return name


class FigureEntry(Schema):
    make: Annotated[Text, AfterValidator(_dotted)]
    caption: Text
    rows: AllOrNames = ALL

    def of(self, rows: Iterable[str]) -> tuple[str, ...]:
        """The rows that are shown."""
        return tuple(rows) if self.rows == ALL else self.rows


def grid_of(
    evaluations: Evaluations | None,
    columns: Mapping[str, ColumnEntry],
    summary: Mapping[str, AverageEntry],
    rows: Mapping[str, RowEntry],
) -> Grid:
    """The cells that these parts of a file make."""
    points = evaluations.at if evaluations else ()
    return Grid(
        at=points,
        columns=tuple(Column(key=key, **dict(entry)) for key, entry in columns.items()),
        summaries=tuple(entry.column(key, columns) for key, entry in summary.items()),
        rows=tuple(
            Row(key=key, **dict(entry) | {"at": points if entry.at is None else entry.at})
            for key, entry in rows.items()
        ),
    )
