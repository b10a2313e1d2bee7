"""Registers what conf/ offers in Hydra's ConfigStore: Hydra composes from the same reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from sextant.options import Options
from sextant.yaml_files import read_yaml

OPTIONAL = ("local", "tuned")
"""Groups that a checkout may lack."""


class _Settings:
    """What an option says; a DictConfig once Hydra asks the store for its copy of it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def __deepcopy__(self, memo: Any) -> DictConfig:
        return OmegaConf.create(dict(self.settings))


class _Node(ConfigNode):
    """A node that stays where it is: Hydra copies the whole store, 500 nodes, for each config."""

    def __deepcopy__(self, memo: Any) -> _Node:
        return self


def register(conf: Path) -> None:
    """Registers config.yaml and every option of conf/, in place of those of another checkout.

    A variant is registered as what it is: an option with a defaults list.
    """
    options, repo = Options(conf), ConfigStore.instance().repo

    def put(place: str, settings: Mapping[str, Any], package: str | None) -> None:
        *folders, name = place.split("/")
        level = repo
        for folder in folders:
            level = level.setdefault(folder, {})
        group = "/".join(folders) or None
        name = f"{name}.yaml"
        level[name] = _Node(name, _Settings(settings), group, package, "sextant")

    for group in {*options.groups(), *OPTIONAL} - {"hydra"}:  # Hydra's own are in there too
        repo.pop(group, None)
    for group in options.groups():
        for name, option in options.group(group).items():
            put(f"{group}/{name}", option.settings, option.package)
    put("config", read_yaml(conf / "config.yaml"), None)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of these overrides as Hydra composes it from what is registered, unresolved."""
    with initialize(config_path=None, version_base="1.3"):
        return compose("config", overrides=list(overrides))
