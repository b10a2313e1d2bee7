"""Renames: what a setting or a class was called before, and how the ledger follows.

`conf/migrations.yaml` declares them. A run keeps its numbers and gets the id that its settings have
under today's names; its line keeps the former ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs import identity

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Migrations:
    """What was renamed.

    Args:
        targets: today's dotted path by the former one.
        settings: by today's `_target_`, today's name of an argument by the former one.
    """

    targets: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def inverse(self) -> Migrations:
        """The renames that lead back to the former names."""
        targets = {new: old for old, new in self.targets.items()}
        settings = {
            targets.get(target, target): {new: old for old, new in names.items()}
            for target, names in self.settings.items()
        }
        return Migrations(targets, settings)

    def forward(self, value: Any) -> Any:
        """Settings under today's names."""
        if isinstance(value, list):
            return [self.forward(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        target = value.get("_target_")
        if not isinstance(target, str):
            return {key: self.forward(item) for key, item in value.items()}
        target = self.targets.get(target, target)
        names = self.settings.get(target, {})
        renamed = {names.get(key, key): self.forward(item) for key, item in value.items()}
        return renamed | {"_target_": target}


def read_migrations(conf: Path) -> Migrations:
    """What `migrations.yaml` declares; nothing where there is no such file.

    Raises:
        UserError: for a field it does not have, or two former names of one target.
    """
    from sextant.yaml_files import read_yaml

    path = conf / "migrations.yaml"
    content = (read_yaml(path) if path.is_file() else None) or {}
    for key in content:
        if key not in ("targets", "settings"):
            raise UserError(f"{path}: {key} is not a field; allowed: targets, settings")
    migrations = Migrations(**{key: value or {} for key, value in content.items()})
    if len(set(migrations.targets.values())) < len(migrations.targets):
        raise UserError(f"{path}: targets gives two former names to one class")
    return migrations


def migrate(records: Mapping[str, Record], migrations: Migrations) -> dict[str, dict[str, Any]]:
    """Every record under today's names, by its former id, parents' ids followed.

    Raises:
        UserError: where a line's parents do not fit its settings.
    """
    done: dict[str, dict[str, Any]] = {}

    def today(run_id: str) -> str:
        """The id of a run, which may be known by its children alone."""
        return follow(run_id)["run_id"] if run_id in records else run_id

    def follow(run_id: str) -> dict[str, Any]:
        if run_id in done:
            return done[run_id]
        record = dict(records[run_id])
        settings = migrations.forward(record["spec"])
        parents = [today(parent) for parent in record["parents"]]
        if settings != record["spec"] or parents != list(record["parents"]):
            roles = sorted(
                {**settings["task"].get("parents", {}), **settings["method"].get("parents", {})}
            )
            if len(roles) != len(parents):
                raise UserError(f"run {run_id} names {len(parents)} parents for {len(roles)} roles")
            new = identity.run_id(settings, dict(zip(roles, parents, strict=True)))
            record |= {"run_id": new, "spec": settings, "parents": parents}
            record["former_ids"] = [*record.get("former_ids", []), run_id]
        done[run_id] = record
        return record

    for run_id in records:
        follow(run_id)
    return done


def migrate_frozen(frozen: Mapping[str, Any], migrations: Migrations) -> dict[str, Any]:
    """A frozen run (`RunSpec.to_json`) under today's names."""
    parents = {
        role: migrate_frozen(parent, migrations) for role, parent in frozen["parents"].items()
    }
    settings = migrations.forward(frozen["settings"])
    ids = {role: parent["run_id"] for role, parent in parents.items()}
    return {
        **frozen,
        "settings": settings,
        "parents": parents,
        "run_id": identity.run_id(settings, ids),
    }
