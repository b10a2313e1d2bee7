"""What conf/ offers: the one reader of its files, for the composer, for Hydra and for the tables.

An option is one choice of a group, such as `method=flow/mean_flow`. Most are a file each. Files
that say several things at once are taken apart here:

- `variants: {name: settings}` in a task or method: siblings of it that differ in these settings;
- `tiers: {all: settings, small: settings}` in a task: options `<task>/<tier>` of the group budget;
- an entry of `tuned/<task>.yaml`: option `<task>/<method>` of the group tuned;
- `methods: {name: settings}` in `attention/<file>.yaml`: the attention inside a `wrapper/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path
from typing import Any

from sextant.errors import UserError, unknown
from sextant.yaml_files import read_yaml

PARTS = ("attention", "wrapper")
"""Folders whose files are parts of methods, not options."""
BASE = re.compile(r"^/(\w+)/([\w/]+)@_here_$")
HEADER = re.compile(r"#\s*@package\s+([\w.]+)\s*$")
REFERENCE = re.compile(r"^\$\{(\w+(?:\.\w+)*)\}$")


@dataclass(frozen=True)
class Option:
    """One choice of a group, as it is written.

    Args:
        settings: what stands at `package`; `defaults` names the options it builds on.
        package: where in the config the settings belong; None for the group's own place.
        tiers: of a task: its budgets.
        file: where it is written.
    """

    settings: dict[str, Any]
    package: str | None
    file: Path
    tiers: dict[str, Any] = field(default_factory=dict)


class Options:
    """The options of one conf folder; files are read once."""

    def __init__(self, conf: Path) -> None:
        self.conf = conf
        self.group = cache(self._group)
        self.settings = cache(self._settings)
        self._tiers = cache(self._inherited_tiers)

    def groups(self) -> list[str]:
        """All groups with options."""
        folders = [path.name for path in self.conf.iterdir() if path.is_dir()]
        return sorted({"budget", *folders} - set(PARTS))

    def names(self, group: str) -> list[str]:
        """The options of a group; those whose name begins with _ are bases for others."""
        return sorted(name for name in self.group(group) if name.rpartition("/")[2][0] != "_")

    def find(self, group: str, name: str) -> Option:
        """An option by its name.

        Raises:
            UserError: there is none of that name; the nearest one is given.
        """
        if name not in self.group(group):
            raise unknown(group, name, self.names(group))
        return self.group(group)[name]

    def _group(self, group: str) -> dict[str, Option]:
        if group == "budget":
            return dict(self._budgets())
        if group == "tuned":
            return dict(self._tuned())
        found: dict[str, Option] = {}
        for name, option in (
            *self._files(group),
            *(self._attentions() if group == "method" else ()),
        ):
            if name in found:
                raise UserError(
                    f"{group}={name} is written in {self.shown(found[name].file)} "
                    f"and in {self.shown(option.file)}"
                )
            found[name] = option
        return found

    def _files(self, group: str) -> Iterator[tuple[str, Option]]:
        folder = self.conf / group
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            settings, package = self._read(path), _package(path)
            if (group, name) == ("local", "default") and settings and package != "_global_":
                raise UserError(
                    f"{path} must begin with the line '# @package _global_', "
                    "without which nothing reads what stands in it"
                )
            tiers = self._take(settings, "tiers", path) if group == "task" else {}
            variants = self._take(settings, "variants", path) if group in ("task", "method") else {}
            yield name, Option(settings, package, path, tiers)
            for variant, own in variants.items():
                built_on = {"defaults": [f"/{group}/{name}@_here_", "_self_"]}
                budgets = self._take(own, "tiers", path) if group == "task" else {}
                yield (
                    path.relative_to(folder).with_name(variant).as_posix(),
                    Option(built_on | own, package, path, budgets),
                )

    def _attentions(self) -> Iterator[tuple[str, Option]]:
        wrappers = dict(self._files("wrapper"))
        for _, attention in self._files("attention"):
            shared = dict(attention.settings)
            for method, own in self._take(shared, "methods", attention.file).items():
                wrapper = own.pop("wrapper", method.partition("/")[0])
                around = self._take(own, "around", attention.file)
                if wrapper not in wrappers:
                    raise unknown(f"wrapper in {self.shown(attention.file)}", wrapper, wrappers)
                settings = _wrapped(wrappers[wrapper].settings, merge(shared, own))
                yield method, Option(merge(settings, around), None, attention.file)

    def _budgets(self) -> Iterator[tuple[str, Option]]:
        tiers = self.names("tier")
        for task, option in self.group("task").items():
            budgets = self._tiers(task)
            for word in budgets:
                if word not in (*tiers, "all"):
                    raise unknown(f"tier in {self.shown(option.file)}", word, (*tiers, "all"))
            for tier in tiers if budgets else ():
                settings = merge(budgets.get("all", {}), budgets.get(tier, {}))
                yield f"{task}/{tier}", Option(settings, None, option.file)

    def _tuned(self) -> Iterator[tuple[str, Option]]:
        for task, option in self._files("tuned"):
            for method in list(option.settings):
                own = self._take(option.settings, method, option.file)
                yield f"{task}/{method}", Option(own, option.package or "method", option.file)

    def _settings(self, group: str, name: str) -> dict[str, Any]:
        """An option's settings over those of the options it builds on."""
        own = [
            {key: value for key, value in option.settings.items() if key != "defaults"}
            for option in self._lineage(group, name)
        ]
        return reduce(merge, own, {})

    def _inherited_tiers(self, task: str) -> dict[str, Any]:
        return reduce(merge, (option.tiers for option in self._lineage("task", task)), {})

    def _lineage(self, group: str, name: str, heirs: tuple[str, ...] = ()) -> Iterator[Option]:
        """What an option is made of, in the order in which later ones win."""
        option = self.find(group, name)
        if name in heirs:
            circle = " <- ".join((*heirs, name))
            raise UserError(f"{self.shown(option.file)} builds on itself: {circle}")
        for entry in option.settings.get("defaults", ["_self_"]):
            base = BASE.match(entry) if isinstance(entry, str) else None
            if entry == "_self_":
                yield option
            elif base is not None and base[1] == group:
                yield from self._lineage(group, base[2], (*heirs, name))
            else:
                raise UserError(
                    f"{self.shown(option.file)}: a default must be _self_ or "
                    f"/{group}/<base>@_here_, not {entry!r}"
                )

    def _take(self, settings: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
        """Takes a mapping (of mappings) out of what a file says; nothing is an empty one."""
        taken = settings.pop(key, None) or {}
        if not isinstance(taken, Mapping):
            raise UserError(f"{self.shown(file)}: {key} must be a mapping, not {taken!r}")
        if key in ("tiers", "variants", "methods"):
            return {name: self._take(dict(taken), name, file) for name in taken}
        return dict(taken)

    def _read(self, path: Path) -> dict[str, Any]:
        content = read_yaml(path)
        if content is not None and not isinstance(content, dict):
            raise UserError(f"{path} must hold a mapping, not a {type(content).__name__}")
        return content or {}

    def shown(self, file: Path) -> str:
        """How messages name a file."""
        return f"conf/{file.relative_to(self.conf).as_posix()}"


def _package(path: Path) -> str | None:
    header = HEADER.match(path.read_text(encoding="utf-8").lstrip().split("\n", 1)[0])
    return header[1] if header else None


def _wrapped(settings: Mapping[str, Any], attention: Mapping[str, Any]) -> dict[str, Any]:
    """A wrapper's settings with those of an attention at the mapping called `attention`."""
    return {
        key: merge(value or {}, attention)
        if key == "attention"
        else _wrapped(value, attention)
        if isinstance(value, Mapping)
        else value
        for key, value in settings.items()
    }


@dataclass(frozen=True)
class Overlaid:
    """A mapping over the one that a reference names, known once the reference is resolved."""

    reference: str
    over: dict[str, Any]


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, also over a reference to one; everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value)
        elif isinstance(value, Mapping) and isinstance(below, Overlaid):
            value = Overlaid(below.reference, merge(below.over, value))
        elif isinstance(value, Mapping) and isinstance(below, str) and REFERENCE.match(below):
            value = Overlaid(below, dict(value))
        merged[key] = value
    return merged
