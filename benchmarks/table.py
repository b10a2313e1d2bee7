"""How long a table takes from a ledger of 10,000 runs, and how much memory.

Writes an invented ledger and tables into a temporary folder, then in fresh processes reads, builds
and prints, as `sextant table` does: a usual table (90 of the runs), a large one (1,000) and, as an
upper end no paper reaches, one of all 10,000. `write` is the four files, not part of the total.
Promise for the first two: under one second and 200 MB on an idle machine.

    python benchmarks/table.py
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS, ROWS, COLUMNS, SEEDS = 10_000, 200, 10, 5
CHILD = """
import resource, sys, time
start = time.perf_counter()
from pathlib import Path
from sextant.runs import ledger
from sextant.tables.definition import load, requests
from sextant.tables.render import terminal, write_all
from sextant.tables.table import build
imported = time.perf_counter()
root = Path(sys.argv[1])
definition = load(root / sys.argv[2], root)
planned = {}
for request in requests(definition, "small"):
    run_id = f"{request.row[1:]:0>4}{request.column[1:]:0>4}{request.seed:04d}"
    planned.setdefault((request.row, request.column), []).append(run_id)
records = ledger.read(root / "ledger", {run for runs in planned.values() for run in runs})
read = time.perf_counter()
table = build(definition, "small", planned, records)
built = time.perf_counter()
terminal(table)
printed = time.perf_counter()
write_all(table, root / "tables")
written = time.perf_counter()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
times = [imported - start, read - imported, built - read, printed - built, printed - start]
times.append(written - printed)
print(*(f"{t:.3f}" for t in times), f"{memory:.0f}", len(records), file=sys.stderr)
"""


def write_ledger(folder: Path) -> None:
    """10,000 lines with settings and provenance as long as real ones."""
    draw = random.Random(0)
    settings = {f"setting_{k}": {"value": k, "name": f"some.dotted.target_{k}"} for k in range(25)}
    code = {f"sextant.methods.some.module_{k}": "0123abcd" for k in range(25)}
    folder.mkdir()
    with (folder / "generation.jsonl").open("w") as file:
        for number in range(RUNS):
            cell, seed = divmod(number, SEEDS)
            row, column = divmod(cell, COLUMNS)
            scores = {
                f"w2@{k}": {
                    "value": draw.gauss(1, 0.1),
                    "n": 2000,
                    "better": "lower",
                    "standard_error": None,
                }
                for k in (1, 2, 20)
            }
            record = {
                "run_id": f"{row:04d}{column:04d}{seed:04d}",
                "task": f"generation/c{column}",
                "method": f"flow/r{row}",
                "tier": "small",
                "seed": seed,
                "status": "done",
                "scores": scores,
                "spec": settings,
                "parents": [],
                "provenance": {
                    "commit": f"{number % 7:040d}",
                    "dirty": False,
                    "device": "cpu",
                    "data": {f"law {column}": "0123abcd"},
                    "code": code,
                },
                "seconds": 30.0,
                "peak_memory_mb": 500.0,
            }
            file.write(json.dumps(record) + "\n")


def write_table(path: Path, rows: int, columns: int) -> None:
    """A table of the given size whose first row every other is compared with."""
    content = {
        "number": rows,
        "id": path.stem,
        "title": "An invented table",
        "paper": {"key": "none", "where": "nowhere", "printed": "none"},
        "data": "invented",
        "seeds": {"small": list(range(SEEDS))},
        "checkpoint": {"use": "last", "because": "invented"},
        "evaluations": {"axis": "NFE", "at": [1, 2, 20]},
        "columns": {
            f"c{k}": {
                "label": f"column {k}",
                "task": f"generation/c{k}",
                "metric": "w2",
                "better": "lower",
            }
            for k in range(columns)
        },
        "rows": {f"r{k}": {"label": f"row {k}", "method": f"flow/r{k}"} for k in range(rows)},
        "margin": {"absolute": 0.02, "because": "invented"},
        "claims": {
            "all_better": {
                "text": "Every row is better than the first.",
                "every": {"rows": "all", "columns": "all"},
                "relation": "better_than",
                "than": {"row": "r0@1"},
            }
        },
    }
    path.write_text(json.dumps(content))  # JSON is YAML


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_ledger(root / "ledger")
        size = (root / "ledger" / "generation.jsonl").stat().st_size / 1e6
        write_table(root / "usual.yaml", 6, 3)
        write_table(root / "large.yaml", 20, COLUMNS)
        write_table(root / "whole.yaml", ROWS, COLUMNS)
        print(f"ledger: {RUNS:,} runs, {size:.0f} MB")
        steps = ("import", "read", "build", "print", "total", "write")
        print(f"{'table':<8}{'runs':>7}" + "".join(f"{step:>8}" for step in steps) + "    MB")
        for table in ("usual", "large", "whole"):
            child = subprocess.run(
                [sys.executable, "-c", CHILD, str(root), f"{table}.yaml"],
                capture_output=True,
                text=True,
                check=True,
            )
            *times, memory, runs = child.stderr.split()
            cells = "".join(f"{float(seconds):>8.2f}" for seconds in times)
            print(f"{table:<8}{runs:>7}{cells}{memory:>6}")


if __name__ == "__main__":
    main()
