"""The schema of a table file, and the definition that a file becomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sextant.schemas import Count, Key, Schema, Text, Wholes, refuse
from sextant.tables import rules
from sextant.tables.entries import (
    AverageEntry,
    ClaimEntry,
    ColumnEntry,
    Evaluations,
    FigureEntry,
    Margins,
    PaperEntry,
    RowEntry,
    grid_of,
)
from sextant.tables.essay import Essay
from sextant.tables.schema import TIERS, Checkpoint, Figure, Paper, Published, TableDefinition

Tier = Literal[TIERS]
GRID = ("evaluations", "columns", "summary", "rows")
# what a part must not contradict: the rule, and the parts it needs
RULES = {
    "columns": (rules.columns, ("evaluations",)),
    "summary": (rules.averages, ("columns",)),
    "rows": (rules.rows, ("evaluations", "columns", "summary")),
    "margin": (rules.margins, ("columns", "summary")),
    "published": (rules.published, ("paper", "margin", *GRID)),
    "claims": (rules.claims, ("margin", *GRID)),
    "figures": (rules.figures, ("rows",)),
}


class TableFile(Schema):
    """`tasks/<family>/tables/<id>.yaml`; a part's rules know the parts that stand before it.

    Seeds that agree modulo `observations` of a tier share what matters, such as the class that is
    forgotten: claims take the mean over them for one observation.

    Deviations and assumptions are texts of `<id>.md` beside it; see `essay`.
    """

    number: Count
    id: Text
    title: Text
    paper: PaperEntry
    data: Annotated[
        dict[Tier, Text],
        BeforeValidator(lambda said: dict.fromkeys(TIERS, said) if isinstance(said, str) else said),
    ]
    seeds: Annotated[dict[Tier, Wholes], Field(min_length=1)]
    observations: dict[Tier, Count] = Field({})
    checkpoint: Checkpoint
    evaluations: Evaluations | None = None
    columns: Annotated[dict[Key, ColumnEntry], Field(min_length=1)]
    summary: dict[Key, AverageEntry] = Field({})
    rows: Annotated[dict[Key, RowEntry], Field(min_length=1)]
    margin: Margins | None = None
    published: dict[str, dict[str, Published]] = Field({}, validate_default=True)
    claims: dict[Key, ClaimEntry] = Field({})
    figures: dict[Key, FigureEntry] = Field({})

    @field_validator(*RULES)
    @classmethod
    def _agrees(cls, value: Any, info: ValidationInfo) -> Any:
        """Lists all contradictions; a rule is left out where a part it needs has faults itself, so
        that each line is a fault of the file."""
        rule, needs = RULES[str(info.field_name)]
        if info.data.keys() >= set(needs):
            refuse(rule(value, *(info.data[name] for name in needs)))
        return value

    def definition(self, file: str, essay: Essay) -> TableDefinition:
        """The table in the form that is filled.

        Args:
            file: its path below the project folder.
            essay: the texts beside it.
        """
        grid = grid_of(self.evaluations, self.columns, self.summary, self.rows)
        tiers = [tier for tier in TIERS if tier in self.seeds]
        return TableDefinition(
            **vars(grid),
            file=file,
            number=self.number,
            id=self.id,
            title=self.title,
            paper=Paper(**dict(self.paper)),
            data={tier: self.data[tier] for tier in TIERS if tier in self.data},
            seeds={tier: self.seeds[tier] for tier in tiers},
            observations=self.observations,
            checkpoint=self.checkpoint,
            axis=self.evaluations.axis if self.evaluations else None,
            published={
                (line, column): cell
                for line, cells in self.published.items()
                for column, cell in cells.items()
            },
            margins=self.margin.of(grid.all_columns) if self.margin else {},
            claims=tuple(entry.claim(key, grid) for key, entry in self.claims.items()),
            deviations=essay.deviations,
            assumptions=essay.assumptions,
            figures=tuple(
                Figure(key=key, **dict(entry) | {"rows": entry.of(self.rows)})
                for key, entry in self.figures.items()
            ),
        )
