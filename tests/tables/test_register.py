from pathlib import Path

import pytest

from sextant.tables.reading import TableError
from sextant.tables.register import read_register

PROJECT = Path(__file__).parents[2]


def test_the_register_has_all_38_numbers():
    register = read_register(PROJECT)
    assert sorted(register.entries) == list(range(1, 39))
    counts = {
        paper: sum(entry.paper == paper for entry in register.entries.values())
        for paper in register.papers
    }
    assert counts == {
        **{"luna": 5, "min_stp": 6, "ot_meanflow": 6, "kelvinlet": 6, "espformer": 8},
        "covarnav": 7,
    }
    assert register.entry(31).id == "cov-1"
    assert register.entry("esp-7").number == 30


def test_every_mistake_is_a_line(tmp_path):
    text = (PROJECT / "tasks/register.yaml").read_text()
    for old, new in {
        "number: 2,": "number: 1,",
        "paper: covarnav": "paper: covernav",
        "printed: full": "printed: some",
        "names: {luna: LUNA,": "names: {lune: LUNA,",
    }.items():
        text = text.replace(old, new, 1)
    (tmp_path / "tasks").mkdir()
    path = tmp_path / "tasks/register.yaml"
    path.write_text(text)
    with pytest.raises(TableError) as caught:
        read_register(tmp_path)
    papers = "luna, min_stp, ot_meanflow, kelvinlet, espformer, covarnav"
    assert str(caught.value).replace("tasks/register.yaml: ", "").splitlines() == [
        "names.luna is missing",
        f"names names 'lune'; allowed: {papers}; nearest match: luna",
        "tables[2].printed is 'some'; allowed: full, part, none; nearest match: none",
    ]
    path.write_text(text.replace("printed: some", "printed: full"))
    with pytest.raises(TableError) as caught:
        read_register(tmp_path)
    assert str(caught.value).replace("tasks/register.yaml: ", "").splitlines()[2:] == [
        "tables[1].number is 1, as in a table before",
        f"tables[30].paper is 'covernav'; allowed: {papers}; nearest match: covarnav",
    ]


def test_a_missing_register(tmp_path):
    with pytest.raises(TableError, match=r"^tasks/register.yaml: the file is missing"):
        read_register(tmp_path)
