"""Every part of the benchmark of unlearning runs, at sizes that take seconds."""

import re

import pytest

TINY = (
    "--images 2 --batch 2 --size 4 --widest 64 --repeats 1 "
    "--each 8 --whole-size 8 --training 1 --inverted 9 --inversion 2"
)


@pytest.fixture
def benchmark(load):
    return load("unlearning")


@pytest.mark.filterwarnings("ignore:the model recognises")
@pytest.mark.parametrize(
    ("part", "title", "names"),
    [
        ("eigenvectors", "Eigenvectors", ["64", "513", "all above"]),
        pytest.param(
            "step", "Step", ["plain Adam", "a tenth", "nine tenths"], marks=pytest.mark.slow
        ),
        ("whole", "Whole", ["inversion", "covariance", "labels", "CovarNav", "training again"]),
    ],
)
def test_a_part_is_measured_and_saved(benchmark, tmp_path, part, title, names):
    path = tmp_path / "saved.md"
    benchmark.main(["--only", part, *TINY.split(), "--save", str(path)])
    titles = re.findall("^## ([A-Z][a-z]*)", path.read_text(), re.M)
    assert titles == [title]
    rows = re.findall(r"^\| ([\w ]+) \|", path.read_text(), re.M)
    assert set(names) <= set(rows)


@pytest.mark.filterwarnings("ignore:the model recognises")
def test_the_parts_of_covarnav_add_up(benchmark, tmp_path):
    path = tmp_path / "saved.md"
    benchmark.main(["--only", "whole", *TINY.split(), "--save", str(path)])
    found = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+) \|", path.read_text(), re.M))
    seconds = {name: float(value) for name, value in found.items()}
    parts = sum(seconds.get(name, 0.0) for name in ("inversion", "covariance", "labels", "updates"))
    assert seconds["CovarNav"] == pytest.approx(parts, abs=0.03)
    assert seconds["CovarNav"] > 0.0


def test_processor_time_is_not_taken_for_that_of_another_device(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "whole", "--device", "cuda"])
    assert "whole counts processor time" in capsys.readouterr().err
