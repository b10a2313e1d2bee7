"""Files that must agree with each other: table files, register, lock, pages, commands."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from pip._internal.network.session import PipSession
from pip._internal.req.req_file import parse_requirements

from sextant.paths import Project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.runs.spec import TIERS, RunSpec
from sextant.tables.definition import check_configs, find_tables
from sextant.tables.register import read_register
from sextant.tables.render import FORMATS
from sextant.tables.schema import TableDefinition
from sextant.verbs.run import main as run_verb
from sextant.verbs.tabling import fill, runs_of, tiers_with_results

ROOT = Path(__file__).parents[1]
PROJECT = Project(ROOT, ROOT / "results")
TABLES = find_tables(ROOT)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_every_table_file_validates_and_its_cells_compose(table: TableDefinition):
    check_configs(table, ROOT)
    for tier in table.seeds:
        assert tier in TIERS
        for ids in runs_of(PROJECT, table, tier).cells.values():
            assert len(set(ids)) == len(table.seeds[tier])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_the_ledger_rebuilds_every_table_byte_for_byte(table: TableDefinition):
    for tier in tiers_with_results(PROJECT, table):
        filled = fill(PROJECT, table, tier, runs_of(PROJECT, table, tier))
        for ending, render in FORMATS.items():
            path = PROJECT.tables / f"table-{table.number:02d}.{tier}.{ending}"
            assert path.read_text() == render(filled), f"{path.name}: run `make tables`"


def test_every_number_of_the_register_is_there():
    assert sorted(read_register(ROOT).entries) == list(range(1, 39))


def test_every_ledger_line_is_a_run_whose_settings_give_its_id():
    for record in ledger.read(PROJECT.ledger).values():
        parents = {str(position): run_id for position, run_id in enumerate(record["parents"])}
        if not parents:
            spec = RunSpec(
                record["task"], record["method"], record["tier"], record["seed"], record["spec"]
            )
            assert spec.run_id == record["run_id"]


def test_no_machine_path_is_in_the_ledger():
    for path in PROJECT.ledger.glob("*.jsonl"):
        assert not re.search(r'"/(home|root|tmp|work|Users)/', path.read_text())


def test_conda_and_pip_install_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    # conda hands these lines to pip as a file of requirements; PIP_NO_DEPS stands in the command
    given = ROOT / "requirements.from-conda.txt"
    try:
        given.write_text("\n".join(pip))
        read = [entry.requirement for entry in parse_requirements(str(given), PipSession())]
    finally:
        given.unlink()
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert read == [line for line in lock if line and not line.startswith("#")]
    assert "PIP_NO_DEPS=1 conda env create" in (ROOT / "environment.yml").read_text()
    assert "python=3.11" in environment["dependencies"]


def test_the_lock_pins_every_declared_dependency_and_nothing_loosely():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^\s]+", pin) for pin in pins)
    names = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in declared:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in names, f"{name} is not in the lock"


def test_the_lock_is_what_is_installed():
    from importlib.metadata import PackageNotFoundError, version

    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if "==" in line:
            name, _, pinned = line.partition("==")
            try:
                assert version(name) == pinned, name
            except PackageNotFoundError:
                pytest.fail(f"{name} is in the lock and not installed")


def commands(page: str) -> list[str]:
    """Every command of a page's bash blocks, and the inline ones in backticks."""
    text = (ROOT / page).read_text()
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        found += [line.split("#")[0].strip() for line in block.splitlines()]
    found += re.findall(r"`(make [^`]+)`", re.sub(r"<!-- begin.*?<!-- end", "", text, flags=re.S))
    return [command for command in dict.fromkeys(found) if command]


READ = ("README.md", "REPRODUCE.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
PAGES = [(page, command) for page in sorted(READ) for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), PAGES)
def test_every_command_of_the_pages_is_understood(page, command, capsys, monkeypatch):
    words = [word for word in command.split() if word != "..."]
    if words[0] == "make":
        if "N" in command:
            words = [word.replace("-N", "-12") for word in words]
        dry = subprocess.run(
            ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert dry.returncode == 0, dry.stderr
        called = re.findall(r"bin/sextant (.+)", dry.stdout)
        words = called[-1].split() if called else []
    else:
        assert words[0] == ".venv/bin/sextant", f"{page}: {command} is not a command of ours"
        words = words[1:]
    if words:
        dry_run(words, monkeypatch)


def dry_run(words: list[str], monkeypatch) -> None:
    """Everything of a verb but its effect: arguments are read, tables and configs are resolved."""
    from sextant import cli

    monkeypatch.chdir(ROOT)
    if words[0] == "reproduce":
        kept = words[1:]
        assert cli.main(["plan", *kept]) == 0
    elif words[0] == "run":
        assert run_verb([*words[1:], "--cfg", "job"]) == 0
    elif words[0] in ("report", "watch", "wandb", "ledger", "verify") or words[:2] in (
        ["data", "fetch"],
        ["data", "verify"],
        ["table", "all"],
    ):
        assert cli.main([words[0], "--help"]) == 0
    else:
        assert cli.main(words) == 0


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_library_examples_of_the_pages_run():
    names: dict = {}
    blocks = examples("docs/library.md")
    assert examples("README.md") == blocks[:1]
    couplings, sliced, attention, doubly_stochastic, unlearning, conversion = blocks
    exec(couplings, names)
    paired = (names["target"] - names["source"]).square().sum(1).mean()
    assert paired < (names["target"].roll(1, 0) - names["source"]).square().sum(1).mean()
    exec(sliced, names)
    assert names["later"].plan.shape == names["transport"].plan.shape == (500, 400)
    exec(attention, names)
    values, mixed = names["values"], names["mixed"]
    assert mixed.shape == values.shape
    assert mixed.abs().max() <= values.abs().max()
    exec(doubly_stochastic, names)
    # Every value is passed on whole: columns of the attention sum to 1.
    torch.testing.assert_close(names["mixed"].mean(2), values.mean(2), rtol=0, atol=1e-5)
    exec(unlearning, names)
    assert names["forgot"].report["proxy_images"] == 18
    assert names["forgot"].report["forget_accuracy"] <= 0.01
    assert names["forgot"].report["steps"] > 0
    exec(conversion, names)
    # The last token was not fed back.
    assert names["cache"].get_seq_length() == 8 + 8 - 1


def test_generated_parts_of_the_pages_are_current():
    from sextant.tables import pages

    filled = {
        table.number: [
            fill(PROJECT, table, tier, runs_of(PROJECT, table, tier))
            for tier in tiers_with_results(PROJECT, table)
        ]
        for table in TABLES
    }
    generated = pages.parts(read_register(ROOT), filled)
    for name in pages.PAGES:
        text = (ROOT / name).read_text()
        assert pages.fill_page(text, generated, name) == text, f"{name}: run `make tables`"


def test_tuned_files_name_a_task_and_a_method_that_exist():
    composer = Composer(PROJECT.conf)
    for pair in composer.options("tuned") if (PROJECT.conf / "tuned").is_dir() else []:
        task = next(name for name in composer.options("task") if pair.startswith(f"{name}/"))
        assert pair.removeprefix(f"{task}/") in composer.options("method")
