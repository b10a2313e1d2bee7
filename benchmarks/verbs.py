"""How long the light verbs take as whole processes, against what was promised.

    python benchmarks/verbs.py [--rounds 5]

`sextant --help`, `sextant plan` of a table of 500 cells (20 methods, 25 tasks, 3 seeds) in a
project made for the purpose, and, for scale, importing torch, which none of them does.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from sextant.paths import find_project

METHODS, TASKS = 20, 25
COMMAND = [sys.executable, "-m", "sextant.cli"]


def large_project(folder: Path) -> None:
    """A copy of conf and tasks with 500 pairs, and a table over them."""
    root = find_project().root
    shutil.copytree(root / "conf", folder / "conf")
    shutil.copytree(root / "tasks", folder / "tasks")
    conf = folder / "conf"
    for number in range(TASKS):
        name = f"generation/copy_{number}"
        (conf / "task" / f"{name}.yaml").write_text(
            'defaults: ["/task/generation/normal_to_checkerboard@_here_", _self_]\n'
            f"learning_rate: {0.001 * (number + 1)}\n"
            f"tiers: {{small: {{steps: {100 + number}, batch_size: 64, evaluation_points: 100}}}}\n"
        )
    for number in range(METHODS):
        (conf / "method" / "flow" / f"copy_{number}.yaml").write_text(
            'defaults: ["/method/flow/ot_mean_flow_sinkhorn@_here_", _self_]\n'
            f"module: {{gradient_clip: {number + 1.0}}}\n"
        )
    table = {
        "number": 14,
        "id": "otmf-3",
        "title": "five hundred cells",
        "paper": {"key": "ot_meanflow", "where": "nowhere", "printed": "none"},
        "data": "none",
        "seeds": {"small": [0, 1, 2]},
        "checkpoint": {"use": "last", "because": "nothing is run"},
        "columns": {
            f"task_{k}": {
                "label": f"task {k}",
                "task": f"generation/copy_{k}",
                "metric": "w2@1",
                "better": "lower",
                "digits": 3,
            }
            for k in range(TASKS)
        },
        "rows": {
            f"method_{k}": {"label": f"method {k}", "method": f"flow/copy_{k}"}
            for k in range(METHODS)
        },
        "published": {},
        "margin": {"absolute": 1, "because": "nothing is run"},
        "claims": {},
    }
    (folder / "tasks/generation/tables/otmf-3.yaml").write_text(yaml.safe_dump(table))


def seconds(command: list[str], folder: Path, rounds: int) -> float:
    """The median wall time of a whole process after one warm-up."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes timed after one warm-up")
    rounds = parser.parse_args().rounds
    shown = Table("command", "seconds", "promised")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large_project(folder)
        for label, command, promise in (
            ("sextant --help", [*COMMAND, "--help"], "0.3"),
            ("sextant plan, 500 cells", [*COMMAND, "plan", "14"], "3"),
            ("sextant table 12", [*COMMAND, "table", "12", "tier=small"], "1"),
            ("import torch", [sys.executable, "-c", "import torch"], ""),
        ):
            shown.add_row(label, f"{seconds(command, folder, rounds):.2f}", promise)
    Console().print(shown)


if __name__ == "__main__":
    main()
