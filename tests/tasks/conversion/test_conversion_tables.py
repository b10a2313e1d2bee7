"""Tables luna-2 and luna-3: what is printed, and the average relative to a row."""

from pathlib import Path
from statistics import fmean

import pytest

from sextant.tables.cells import Cell, summary_cell
from sextant.tables.definition import check_configs, find_table, load
from sextant.tables.reading import TableError

ROOT = Path(__file__).parents[3]
QQP = {"untouched": 91.0, "hedgehog": 91.0, "luna": 90.7}
MNLI = {"untouched": 84.7, "hedgehog": 82.6, "luna": 83.5}


def printed(table, row):
    """The mean of the printed row over all eight tasks."""
    cells = [table.published[row, column].mean for column in table.summaries[0].over]
    return fmean([*cells, QQP[row], MNLI[row]])


def test_the_printed_recovery_is_that_of_means_but_for_luna():
    table = find_table(ROOT, 2)
    found = {row: 100 * printed(table, row) / printed(table, "untouched") for row in QQP}
    assert found["hedgehog"] == pytest.approx(99.34, abs=0.005)
    assert found["luna"] == pytest.approx(99.73, abs=0.005)
    assert table.published["hedgehog", "recover"].mean == 99.3
    assert table.published["luna", "recover"].mean == 99.5


@pytest.mark.parametrize("number", [2, 3])
def test_every_task_and_method_is_there(number):
    check_configs(find_table(ROOT, number), ROOT)


def test_an_average_relative_to_a_row_is_one_of_means_seed_by_seed():
    table = find_table(ROOT, 2)
    line = next(line for line in table.lines if line.key == "luna")
    column = next(each for each in table.summaries if each.key == "recover")
    parts = [
        Cell("luna", "a", 3, {0: 90.0, 1: 50.0, 2: 1.0}),
        Cell("luna", "b", 3, {0: 30.0, 1: 50.0, 2: 1.0}),
    ]
    base = [
        Cell("x", "a", 3, {0: 100.0, 1: 50.0}, missing=(2,)),
        Cell("x", "b", 3, {0: 50.0, 1: 30.0}, missing=(2,)),
    ]
    cell = summary_cell(line, column, parts, base)
    assert cell.values == pytest.approx({0: 100 * 120 / 150, 1: 125.0})
    assert cell.missing == (2,)
    nothing = [Cell("x", name, 3, {0: 0.0, 1: 1.0, 2: 1.0}) for name in "ab"]
    cell = summary_cell(line, column, parts, nothing)
    assert cell.failures == {0: "not scored"}


def test_the_row_of_a_relative_average_must_be_there(tmp_path):
    text = (ROOT / "tasks/conversion/tables/luna-2.yaml").read_text()
    path = tmp_path / "luna-2.yaml"
    path.write_text(text.replace("relative_to: untouched", "relative_to: nobody"))
    with pytest.raises(TableError, match=r"nobody.* is named by summary.recover.relative_to"):
        load(path, tmp_path)
