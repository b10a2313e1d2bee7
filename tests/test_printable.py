"""Text of table files, of the ledger and of arguments cannot command a terminal."""

from __future__ import annotations

import pytest

from sextant.errors import UserError, unknown
from sextant.printable import printable
from sextant.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode and  →", "plain, ünïcode and  →"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;https://elsewhere\x1b\\here\x1b]8;;\x07", "here"),
        ("\x1bcreset \x9b2Jand\x85 \x07bell\x08", "reset and bell"),
        ("right \u202eleft\u202c", "right left"),
        ("half \ud83d a pair", "half  a pair"),
        ("hidden\roverwritten", "hiddenoverwritten"),
    ],
)
def test_control_characters_go(text, shown):
    assert printable(text) == shown


def test_yaml_and_sentences_hold_none(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text('title: "One\\e[2J\\u202e step"\nrows: {"a\\x07b": ["\\e[31mx"]}\n')
    assert read_yaml(path) == {"title": "One step", "rows": {"ab": ["x"]}}
    assert str(UserError("no \x1b[31mfile")) == "no file"
    assert "\x1b" not in str(unknown("verb", "\x1b[2Jrun", ["run"]))
