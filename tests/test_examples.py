"""The example scripts, run as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
CUBE = """OFF
8 6 0
0 0 0
1 0 0
1 1 0
0 1 0
0 0 1
1 0 1
1 1 1
0 1 1
4 3 2 1 0
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""
TETRAHEDRON = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


def run(*arguments, cwd, script="align_meshes.py"):
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def meshes(tmp_path):
    for name, text in (("cube", CUBE), ("tetrahedron", TETRAHEDRON)):
        (tmp_path / f"{name}.off").write_text(text)
    return tmp_path


def test_two_meshes_are_matched_and_drawn(meshes):
    done = run("cube.off", "tetrahedron.off", "--points", "60", "--iterations", "40", cwd=meshes)
    assert done.returncode == 0, done.stderr
    costs = {}
    for name in ("exact transport", "min-STP", "min-SWGG", "random"):
        line = next(line for line in done.stdout.splitlines() if name in line)
        costs[name] = float(re.findall(r"\d+\.\d+", line)[0])
    assert costs["exact transport"] < costs["min-STP"] < costs["random"]
    assert (meshes / "align_meshes.png").stat().st_size > 20_000


def test_a_file_that_is_no_mesh_is_one_sentence(meshes):
    (meshes / "bad.off").write_text("PLY\n")
    done = run("bad.off", "cube.off", cwd=meshes)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines() == ["bad.off must begin with OFF"]


def test_a_bert_is_converted_and_its_maps_are_taught(tmp_path):
    done = run("--steps", "12", "--lengths", "16", "32", cwd=tmp_path, script="convert_bert.py")
    assert done.returncode == 0, done.stderr
    assert "converted to luna" in done.stdout
    assert "bit for bit the same" in done.stdout
    line = next(line for line in done.stdout.splitlines() if " to " in line and "│" in line)
    before, after, first, last = (float(number) for number in re.findall(r"\d+\.\d+", line))
    assert last <= first  # twelve steps move the last printed digit, or not
    assert 0 < after < before
