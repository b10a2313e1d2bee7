"""Settings of the Arena's tasks: Path-X, and the commands that its page gives."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sextant.runs.build import build
from sextant.runs.compose import Composer
from sextant.runs.hydra_store import composed as composed_by_hydra
from sextant.runs.hydra_store import register
from tasks.lra.pathfinder import PathfinderLaw, law_of_side

ROOT = Path(__file__).parents[3]
COMPOSER = Composer(ROOT / "conf")
PAGE = (ROOT / "tasks/lra/README.md").read_text()
COMMANDS = re.findall(r"^\.venv/bin/sextant run (.*)$", PAGE, re.M)
SKYFORMER = {
    "listops": (32, 1e-4, 1000),
    "text": (32, 1e-4, 80),
    "retrieval": (16, 2e-4, 800),
    "pathfinder": (128, 2e-4, 312),
    "image": (256, 1e-4, 175),
}
"""Batch, rate and warm-up of the Skyformer code."""


def composed(command):
    register(ROOT / "conf")
    return OmegaConf.to_container(composed_by_hydra(command.split()), resolve=True)


@pytest.mark.parametrize("tier", ["smoke", "small", "gpu", "paper"])
def test_path_x_is_as_long_as_its_images_have_pixels(tier):
    settings = COMPOSER.config("lra/pathx", "attention/luna", tier, 0)
    law = build(settings["task"]["data"]["law"])
    assert isinstance(law, PathfinderLaw)
    assert settings["task"]["length"] == law.side**2
    assert settings["method"]["module"]["network"]["length"] == law.side**2
    assert (law == law_of_side(128)) == (tier in ("gpu", "paper"))
    named = set(settings["task"]["data"]["law"]) - {"_target_"}
    assert named == {field.name for field in fields(PathfinderLaw)}


@pytest.mark.parametrize("task", sorted(SKYFORMER))
def test_the_page_gives_the_skyformer_schedule(task):
    [command] = [line for line in COMMANDS if f"lra/{task} " in line and "skyformer" in line]
    found = composed(command)
    module, data = found["method"]["module"], found["task"]["data"]
    batch, rate, warmup = SKYFORMER[task]
    assert (module["schedule"], module["steps"]) == ("skyformer", 50000)
    assert (module["learning_rate"], module["warmup"]) == (rate, warmup)
    assert (data["batch_size"], data["steps"]) == (batch, 50000)


def test_the_page_reads_the_release():
    lines = [line for line in COMMANDS if "release" in line]
    assert len(lines) == len(COMMANDS) - len(SKYFORMER) == 2
    for line in lines:
        folder = composed(line)["task"]["data"]["release"]
        assert folder.startswith("data/")
        assert build(composed(line)["task"]["data"]).release == folder


def test_linformer_at_its_random_start_learns_its_matrix_no_more():
    def attention(method):
        settings = COMPOSER.config("lra/text", method, "small", 0)
        return settings["method"]["module"]["network"]["attention"]

    usual, random = attention("attention/linformer"), attention("attention/linformer_random")
    assert random == usual | {"learned": False}
    assert "projection" in dict(build(usual).named_parameters())
    assert not list(build(random).parameters())


def test_every_task_of_the_arena_has_a_budget_for_every_tier():
    tasks = [name for name in COMPOSER.options("task") if name.startswith("lra/")]
    assert len(tasks) == 6
    for task in tasks:
        budgets = [
            COMPOSER.offered.settings("budget", f"{task}/{tier}")
            for tier in ("smoke", "small", "gpu", "paper")
        ]
        assert len({frozenset(budget) for budget in budgets}) == 1
