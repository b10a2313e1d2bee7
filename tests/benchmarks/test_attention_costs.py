"""Every part of the benchmark of attentions runs, at sizes that take seconds."""

from __future__ import annotations

import re

import pytest

TINY = "--length 64 --lengths 32 64 --all-lengths 32 64 --projections 2 4 --hidden 4 --tokens 2000"


@pytest.fixture
def benchmark(load):
    return load("attention")


def saved(benchmark, path, *words):
    benchmark.main([*words, *TINY.split(), "--repeats", "1", "--save", str(path)])
    return path.read_text()


def cells(text, title):
    """The cells of a markdown table, its heading first."""
    _, _, rest = text.partition(f"## {title}")
    lines = [line for line in rest.partition("##")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("part", "title", "rows"),
    [
        ("steps", "Steps, N = 64", 9),
        ("lengths", "Lengths, ms", 2),
        ("sizes", "LUNA is faster than SDPA", 2),
        ("all", "All attentions", 20),
        ("stream", "Causal form", 3),
    ],
)
def test_a_part_is_measured_and_saved(benchmark, tmp_path, capsys, part, title, rows):
    text = saved(benchmark, tmp_path / "saved.md", "--only", part)
    assert "one thread" in text
    assert re.findall("^## (.*)", text, re.M) == [text.partition("## ")[2].splitlines()[0]]
    table = cells(text, title)
    assert len(table) == 2 + rows
    assert len({len(line) for line in table}) == 1
    assert all(cell for line in table for cell in line[:2])
    assert title.partition(",")[0] in capsys.readouterr().out


def test_several_parts_come_in_their_order_and_nothing_is_saved_unasked(benchmark, tmp_path):
    text = saved(benchmark, tmp_path / "saved.md", "--only", "stream", "lengths")
    assert re.findall("^## ([A-Z][a-z]*)", text, re.M) == ["Lengths", "Causal"]
    benchmark.main(["--only", "stream", "--tokens", "2000"])
    assert [path.name for path in tmp_path.iterdir()] == ["saved.md"]


def test_every_step_computes_what_the_listed_form_does(benchmark, tmp_path):
    table = cells(saved(benchmark, tmp_path / "saved.md", "--only", "steps"), "Steps")
    errors = [float(line[-1]) for line in table[2:] if line[-1]]
    assert len(errors) == 7
    assert max(errors) < 1e-4


def test_where_sdpa_is_overtaken_is_said_in_words(benchmark):
    assert benchmark.faster_from([32, 64], [0.5, 2.0]) == "from N = 45 on"
    assert benchmark.faster_from([32, 64], [1.5, 2.0]) == "at every N"
    assert benchmark.faster_from([32, 64], [0.5, 0.9]) == "at no N up to 64"
