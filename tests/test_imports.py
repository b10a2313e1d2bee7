"""The arrows between the wings: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "tasks": {"sextant.contracts", "sextant.data", "sextant.ranges", "tasks"},
    "sextant.methods": {"sextant.contracts", "sextant.methods", "sextant.ranges"},
    "sextant.ranges": set(),
    "sextant.data": {
        "sextant.data", "sextant.errors", "sextant.files", "sextant.schemas", "sextant.yaml_files"
    },
    "sextant.contracts": set(),
    "sextant.errors": {"sextant.printable"},
    "sextant.printable": set(),
    "sextant.files": {"sextant.errors"},
    "sextant.runs": {
        "sextant.runs", "sextant.contracts", "sextant.errors", "sextant.files", "sextant.options",
        "sextant.printable", "sextant.schemas", "sextant.wandb.mirror", "sextant.words",
        "sextant.yaml_files"
    },
    "sextant.wandb": {
        "sextant.wandb", "sextant.runs", "sextant.tables.schema", "sextant.errors"
    },
    "sextant.tables": {
        "sextant.tables", "sextant.runs.curves", "sextant.runs.ledger", "sextant.runs.spec",
        "sextant.errors", "sextant.files", "sextant.options", "sextant.schemas", "sextant.words",
        "sextant.yaml_files"
    },
}  # fmt: skip
HEAVY = {"torch", "numpy", "scipy", "pandas", "pytorch_lightning", "hydra", "omegaconf", "ot"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for base in (ROOT / "src", ROOT):
        for path in sorted(base.glob("sextant/**/*.py" if base.name == "src" else "tasks/**/*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names.add(node.module)
    return names


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def wing(name: str) -> str | None:
    return next((package for package in ALLOWED if inside(name, package)), None)


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value)[-60:])
def test_no_arrow_points_the_wrong_way(name, path):
    own = [entry for entry in imported(path) if inside(entry, "sextant") or inside(entry, "tasks")]
    if wing(name) is None:
        return
    for entry in own:
        assert any(inside(entry, allowed) for allowed in ALLOWED[wing(name)]), (
            f"{name} imports {entry}"
        )


@pytest.mark.parametrize(
    ("name", "path"), [entry for entry in modules() if entry[0].startswith("tasks.")]
)
def test_families_of_tasks_meet_in_shared_alone(name, path):
    """What two families use moves to `tasks.shared`, which imports no family."""
    family = ".".join(name.split(".")[:2])
    for entry in imported(path):
        if inside(entry, "tasks"):
            assert inside(entry, family) or inside(entry, "tasks.shared"), f"{name} imports {entry}"


def test_the_check_sees_a_wrong_arrow(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def later():\n    from sextant.runs.execute import execute\n")
    assert imported(wrong) == {"sextant.runs.execute"}
    assert not any(inside("sextant.runs.execute", entry) for entry in ALLOWED["tasks"])


def test_tables_never_import_heavy_libraries():
    for name, path in modules():
        if inside(name, "sextant.tables"):
            assert not {entry.split(".")[0] for entry in imported(path)} & HEAVY, name


@pytest.mark.parametrize("arguments", [["--help"], ["table", "12"], ["plan", "12"], ["status"]])
def test_light_verbs_import_no_heavy_library(arguments):
    script = (
        "import sys\nfrom sextant.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        f"loaded = {HEAVY!r} & set(sys.modules)\nassert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_modules_can_be_read_in_one_sitting():
    long = {name: len(path.read_text().splitlines()) for name, path in modules()}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}
