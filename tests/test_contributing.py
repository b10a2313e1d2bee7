"""CONTRIBUTING.md, each recipe followed to the letter in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.toy import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy in which the recipes follow each other, since the table needs the task."""
    root = tmp_path_factory.mktemp("contributing") / "checkout"
    for folder in ("src", "tasks", "conf", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def follow(root, text):
    """Writes every block to the file that the line above it names and returns the commands."""
    commands = []
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "bash":
            commands += content.strip().splitlines()
            continue
        above = text[: block.start()].rstrip().rpartition("\n")[2]
        *key, name = re.findall(r"`([^`]+)`", above)
        path = root / name
        if not key:
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        else:
            before, line, after = path.read_text().partition(f"\n{key[0]}\n")
            assert line, f"{name} has no {key[0]}"
            path.write_text(f"{before}{line}{content}{after}")
    return commands


def answer(root, command):
    words = shlex.split(command)
    assert words[0] in (".venv/bin/sextant", ".venv/bin/python"), command
    module = ["-m", "sextant.cli"] if words[0].endswith("sextant") else []
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    environment.pop("SEXTANT_RESULTS", None)
    return subprocess.run(
        [sys.executable, "-P", *module, *words[1:]],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("title", "text"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_recipe_works_as_it_stands(title, text, checkout):
    if title == "A table" and not list(checkout.glob("conf/task/generation/moons_to_ch*")):
        follow(checkout, dict(RECIPES)["A task of a family that is there"])
    commands = follow(checkout, text)
    assert commands
    for command in commands:
        found = answer(checkout, command)
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
