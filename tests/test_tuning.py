"""Settings found on validation data, and the scores that they were chosen by."""

from __future__ import annotations

import csv
import importlib
import shutil

import pytest

from sextant.yaml_files import read_yaml
from tests.toy import ROOT

TASKS = ("unlearning/cifar10_class", "unlearning/cifar10_subset", "unlearning/faces_class")


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tuning")
    return importlib.import_module("chosen")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
def test_the_committed_settings_are_the_best_of_the_committed_grids(task, chosen):
    tuned = read_yaml(ROOT / "conf" / "tuned" / f"{task}.yaml")
    best = [row for row in rows(chosen.scores_file(ROOT, task)) if row["chosen"]]
    assert len(best) == len({row["method"] for row in best}) > 5
    for row in best:
        assert row["setting"] == chosen.flow(tuned[row["method"]])


@pytest.mark.parametrize("task", TASKS)
def test_a_setting_changes_its_line_and_leaves_the_others(task, tmp_path, chosen):
    path = tmp_path / "tuned" / f"{task}.yaml"
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "tuned" / f"{task}.yaml", path)
    before = path.read_text()
    chosen.write_settings(tmp_path, task, {}, task)
    assert path.read_text() == before
    chosen.write_settings(tmp_path, task, {"unlearning/covarnav_ascent": {"rate": 0.5}}, task)
    changed = set(path.read_text().splitlines()) - set(before.splitlines())
    assert changed == {"unlearning/covarnav_ascent: {rate: 0.5}"}


def test_a_grid_takes_the_place_of_the_one_before(tmp_path, chosen):
    for kept in (10.0, 20.04):
        for method in ("f/m", "f/n"):
            grid = [chosen.Judged(method, "small", "1 2", {"rate": 1e-5}, kept, 0.0, True)]
            chosen.write_scores(tmp_path, "f/t", method, grid)
    lines = chosen.scores_file(tmp_path, "f/t").read_text().splitlines()
    assert lines == [
        ",".join(chosen.COLUMNS),
        "f/m,small,1 2,{rate: 1.0e-05},20.0,0.0,yes",
        "f/n,small,1 2,{rate: 1.0e-05},20.0,0.0,yes",
    ]
