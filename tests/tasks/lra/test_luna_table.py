"""The printed values of table luna-1, held against each other."""

from pathlib import Path
from statistics import fmean

import pytest

from sextant.tables.definition import load

ROOT = Path(__file__).parents[3]
TABLE = load(ROOT / "tasks/lra/tables/luna-1.yaml", ROOT)
PRINTED_LINES = sorted({line for line, _ in TABLE.published})


def test_every_printed_line_is_whole():
    assert PRINTED_LINES
    assert len(TABLE.published) == len(PRINTED_LINES) * (len(TABLE.columns) + 1)


@pytest.mark.parametrize("line", PRINTED_LINES)
def test_printed_averages_recompute(line):
    printed_to = 0.1 if line == "lotformer" else 0.01
    average = fmean(TABLE.published[line, column.key].mean for column in TABLE.columns)
    assert abs(average - TABLE.published[line, "average"].mean) <= printed_to / 2 + 1e-9
