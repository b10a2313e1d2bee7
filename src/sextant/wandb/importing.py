"""Rebuilds the ledger from the lines that runs on W&B keep, trusting none of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs import identity, ledger
from sextant.runs.migrations import Migrations, migrate
from sextant.runs.spec import TIERS
from sextant.wandb.account import refusals, require_login
from sextant.wandb.mirror import LINE

NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")


@dataclass
class Import:
    """What came of an import: ids that came, ids that were here, and (id, why) of the others."""

    came: list[str] = field(default_factory=list)
    here: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def lines_of(entity: str, project: str) -> Iterator[tuple[str, str | None]]:
    """Every run of a W&B project: its id and the ledger line in its summary."""
    require_login("read a project")
    import wandb
    from rich.console import Console
    from rich.progress import Progress

    with refusals(f"W&B has no project {entity}/{project} for you"):
        runs = wandb.Api().runs(f"{entity}/{project}", lazy=False)
        try:
            total = len(runs)
        except ValueError as error:
            raise UserError(f"W&B has no project {entity}/{project} for you: {error}") from None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for run in progress.track(runs, total=total, description="runs"):
            line = run.summary_metrics.get(LINE)
            yield run.id, line if isinstance(line, str) else None


def import_lines(
    lines: Iterable[tuple[str, str | None]], folder: Path, migrations: Migrations | None = None
) -> Import:
    """Adds what is valid and not here to the ledger.

    A local line stays unless it says that the run failed and the other that it was done.

    Args:
        lines: the id a run is kept under elsewhere, and its ledger line if it has one.
        folder: the ledger.
        migrations: what was renamed since the lines were kept.
    """
    outcome = Import()
    records = {}
    for name, line in lines:
        try:
            if line is None:
                raise UserError("has no ledger line: it has not ended, or is no run of Sextant")
            records[name] = checked(name, line)
        except UserError as problem:
            outcome.refused.append((name, str(problem)))
    local = ledger.read(folder)
    for record in migrate(records, migrations or Migrations()).values():
        name = record["run_id"]
        known = local.get(name)
        if known is None or (known["status"] == "failed" and record["status"] == "done"):
            ledger.append(folder, record)
            local[name] = record
            outcome.came.append(name)
        elif known["status"] == record["status"] and known["scores"] == record["scores"]:
            outcome.here.append(name)
        elif record["status"] == "failed":
            outcome.kept.append((name, "is done here and failed there"))
        else:
            outcome.kept.append((name, "has other scores here"))
    return outcome


def checked(name: str, line: str) -> dict[str, Any]:
    """A ledger line whose settings give the id it is kept under.

    Raises:
        UserError: with what is wrong, as the end of a sentence about the run.
    """
    try:
        record = ledger.parse(line, "ledger line")
    except UserError as problem:
        raise UserError(f"has a damaged line: {str(problem).partition(';')[0]}") from None
    for key in ("task", "method"):
        # the family of a task names a ledger file, so nothing but plain names may pass
        if not isinstance(record[key], str) or not NAME.fullmatch(record[key]):
            raise UserError(f"names the {key} {record[key]!r}, which is not FAMILY/NAME")
    if record["tier"] not in TIERS:
        raise UserError(f"names the tier {record['tier']!r}; allowed: {', '.join(TIERS)}")
    recomputed = recomputed_id(record)
    if not name == record["run_id"] == recomputed:
        raise UserError(
            f"says it is run {record['run_id']}, but its settings give {recomputed or 'no id'}"
        )
    settings = record["spec"]
    if settings.get("seed") != record["seed"] or settings["tier"].get("name") != record["tier"]:
        raise UserError("names a seed or tier that its settings contradict")
    for metric, score in _mapping(record["scores"], "scores").items():
        _check_score(metric, score)
    if record["status"] == "done" and not record["scores"]:
        raise UserError("is done and has no scores")
    return record


def recomputed_id(record: Mapping[str, Any]) -> str | None:
    """The run id that the line's settings and parents give; None where they do not fit."""
    settings, parents = record["spec"], record["parents"]
    try:
        declared = {**settings["task"].get("parents", {}), **settings["method"].get("parents", {})}
        # the line lists the parents in the order of their roles
        roles = dict(zip(sorted(declared), parents, strict=True))
        return identity.run_id(settings, roles)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _check_score(metric: str, score: Any) -> None:
    value, n, error = (
        _mapping(score, f"scores.{metric}").get(key) for key in ("value", "n", "standard_error")
    )
    if not _is_number(value):
        raise UserError(f"has a score {metric} of value {value!r}")
    if not isinstance(n, int) or n < 1:
        raise UserError(f"has a score {metric} on n = {n!r} examples")
    if error is not None and not (_is_number(error) and error >= 0):
        raise UserError(f"has a score {metric} with the standard error {error!r}")
    if score.get("better") not in ("higher", "lower"):
        raise UserError(f"has a score {metric} with better = {score.get('better')!r}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"has {where} that are no mapping")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
