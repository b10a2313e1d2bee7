"""Rebuilds the ledger from the lines that runs on W&B keep, trusting none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs import identity, ledger
from sextant.runs.migrations import Migrations, migrate
from sextant.wandb.account import refusals, require_login
from sextant.wandb.mirror import LINE


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
        record = ledger.parse(line, "it")
    except UserError as problem:
        raise UserError(f"has a damaged line: {problem}") from None
    recomputed = recomputed_id(record)
    if not name == record["run_id"] == recomputed:
        raise UserError(
            f"says it is run {record['run_id']}, but its settings give {recomputed or 'no id'}"
        )
    settings = record["spec"]
    if settings.get("seed") != record["seed"] or _name_of(settings.get("tier")) != record["tier"]:
        raise UserError("names a seed or tier that its settings contradict")
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


def _name_of(tier: Any) -> Any:
    return tier.get("name") if isinstance(tier, Mapping) else None
