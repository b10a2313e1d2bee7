"""A table as a W&B report: for each task, its runs with panels that compare the methods.

A report rather than a workspace, because columns share metric names: in a report every task has a
run set of its own, in a workspace the bars would average over tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sextant.errors import UserError
from sextant.tables.schema import Column, TableDefinition
from sextant.wandb.account import refusals

METHOD = "JobType"  # W&B's field that carries the method
TITLE_LIMIT = 128


@dataclass(frozen=True)
class TaskRuns:
    """What one task's panels show.

    Args:
        ids: run ids of the task's cells at the tier.
        curves: names of the metrics logged while training.
        samples: names of the pictures that runs leave.
    """

    ids: Sequence[str]
    curves: Sequence[str]
    samples: Sequence[str]


def title(definition: TableDefinition, tier: str) -> str:
    """The report's name, by which it is found again and replaced."""
    whole = f"Table {definition.number} ({definition.id}), tier {tier}: {definition.title}"
    return whole if len(whole) <= TITLE_LIMIT else whole[: TITLE_LIMIT - 1] + "…"


def build(
    definition: TableDefinition,
    tier: str,
    tasks: Mapping[str, TaskRuns],
    entity: str,
    project: str,
    page: str,
) -> Any:
    """The report of a table at a tier; the same arguments give the same report.

    Args:
        tasks: by task, in the order of the table's columns.
        entity: who owns the W&B project; empty for whoever is logged in.
        page: the table as markdown, shown below the panels.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [
        wr.P(f"{definition.paper.title or definition.paper.key}, {definition.paper.where}. "),
        wr.H2("What the paper claims"),
        wr.UnorderedList([claim.text for claim in definition.claims]),
    ]
    if not definition.claims:
        blocks = blocks[:1]
    for task, runs in tasks.items():
        columns = [column for column in definition.columns if column.task == task]
        panels = [
            *(bar for column in columns for bar in _scores(definition, column)),
            *(_curve(name) for name in runs.curves),
            *_cost(definition, columns),
        ]
        if runs.samples:
            keys = [f"sample/{name}" for name in runs.samples]
            panels.append(wr.MediaBrowser(title="samples", media_keys=keys, num_columns=4))
        chosen = f"Metric('ID') in {json.dumps(list(runs.ids))}"
        # without a project of its own a run set is the report's, and needs no server to be written
        runset = wr.Runset(name=task, filters=chosen, groupby=[METHOD])
        for place, part in enumerate((runset, *panels)):
            part._id = _stable(definition.id, tier, task, place)
        for place, panel in enumerate(panels):
            panel.layout = wr.Layout(x=12 * (place % 2), y=8 * (place // 2), w=12, h=8)
        blocks += [
            wr.H2(", ".join(column.label for column in columns)),
            wr.PanelGrid(runsets=[runset], panels=panels),
        ]
    blocks += [wr.H2("The table, from the ledger"), wr.MarkdownBlock(page)]
    return wr.Report(
        project=project,
        entity=entity,
        title=title(definition, tier),
        description=f"made by: sextant wandb dashboard {definition.number} tier={tier}",
        blocks=blocks,
        width="fluid",
    )


def to_json(report: Any) -> str:
    """What would be sent to the server, as text."""
    model = report._to_model()
    content = {
        "entity": model.project.entity_name,
        "project": model.project.name,
        "title": model.display_name,
        "description": model.description,
        "spec": model.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> Any:
    """The report that `to_json` wrote.

    Args:
        where: the file, for what is said of a mistake.

    Raises:
        UserError: where the text is no such report.
    """
    import wandb_workspaces.reports.v2 as wr
    from pydantic import ValidationError
    from wandb_workspaces.reports.v2.internal import ReportViewspec

    try:
        content = json.loads(text)
        model = ReportViewspec.model_validate(
            {
                "project": {"entityName": content["entity"], "name": content["project"]},
                "displayName": content["title"],
                "description": content["description"],
                "spec": content["spec"],
            }
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where} is no definition of a dashboard: {reason}") from None
    report = wr.Report._from_model(model)
    report.width = model.spec.width  # which the library leaves behind
    return report


def save(report: Any, server: str) -> str:
    """Creates the report, or replaces the one of the same title; returns its address."""
    import wandb

    with refusals(f"{server} did not take the report"):
        existing = wandb.Api().reports(f"{report.entity}/{report.project}")
        try:
            found = [known.id for known in existing if known.display_name == report.title]
        except ValueError:
            found = []  # no such project yet; saving makes it
        if found:
            report.id = found[0]
        return str(report.save().url)


def _scores(definition: TableDefinition, column: Column) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    points = sorted(
        {
            line.at
            for line in definition.lines
            if line.at is not None and definition.fills(line, column)
        }
    )
    arrow = f"{column.better} is better" if column.target is None else f"{column.target:g} is best"
    bars = []
    for at in points or [None]:
        where = "" if at is None else f", {definition.axis} {at}"
        bars.append(
            wr.BarPlot(
                title=f"{column.label}{where}: {column.unit or column.metric}, {arrow}",
                metrics=[_score(column, at)],
                groupby=METHOD,
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                max_bars_to_show=100,
                max_runs_to_show=1000,
            )
        )
    return bars


def _curve(name: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=f"{name} while training",
        x="trainer/global_step",
        y=[name],
        groupby=METHOD,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=1000,
    )


def _cost(definition: TableDefinition, columns: Sequence[Column]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    bars = [
        wr.BarPlot(
            title=label,
            metrics=[metric],
            groupby=METHOD,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_bars_to_show=100,
            max_runs_to_show=1000,
        )
        for label, metric in (
            ("cost: seconds", "seconds"),
            ("cost: peak memory, MB", "peak_memory_mb"),
        )
    ]
    first = columns[0]
    points = first.at or definition.at
    score = _score(first, points[0] if points else None)
    label = first.unit or first.metric
    scatter = wr.ScatterPlot(
        title=f"{label} against seconds", x="seconds", y=score, legend_template="${run:jobType}"
    )
    return [*bars, scatter]


def _score(column: Column, at: int | None) -> str:
    return f"score/{column.metric}" if at is None else f"score/{column.metric}@{at}"


def _stable(*parts: object) -> str:
    """An id in place of the library's random one, so that the same table is the same file."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:12]
