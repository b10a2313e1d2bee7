from pathlib import Path

import pytest

from sextant.tables.reading import TableError
from sextant.tables.register import read_register

PROJECT = Path(__file__).parents[2]


def test_the_register_has_all_37_numbers():
    register = read_register(PROJECT)
    assert sorted(register.entries) == list(range(1, 38))
    counts = {
        paper: sum(entry.paper == paper for entry in register.entries.values())
        for paper in register.papers
    }
    assert counts == {
        **{"luna": 5, "min_stp": 6, "ot_meanflow": 6, "kelvinlet": 6, "espformer": 7},
        "covarnav": 7,
    }
    assert register.entry(31).id == "cov-1"
    assert register.entry("esp-7").number == 30


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("number: 2,", "number: 1,", "tables has 1 or luna-2 twice"),
        ("paper: covarnav", "paper: covernav", "tables[30].paper is 'covernav'; allowed: "),
        ("printed: full", "printed: some", "tables[2].printed is 'some'; allowed: full, part"),
        ("place: \"Table 1\", ", "", "tables[0].place is missing"),
        ("tables:", "table:", "tables is missing"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, old, new, sentence):
    text = (PROJECT / "tasks/register.yaml").read_text()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/register.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(TableError) as caught:
        read_register(tmp_path)
    assert str(caught.value).startswith(f"tasks/register.yaml: {sentence}")


def test_a_missing_register(tmp_path):
    with pytest.raises(TableError, match=r"^tasks/register.yaml: the file is missing"):
        read_register(tmp_path)
