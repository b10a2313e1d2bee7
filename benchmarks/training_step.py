"""A training step through Sextant against the same step in a bare PyTorch loop.

    python benchmarks/training_step.py [--steps 300] [--rounds 9]

Both train the Mean Flow network of table 12 (batch 256, width 256) on the same batches, pairs and
times; the bare loop has no Trainer, no callbacks, no checkpoints. The two take turns in one process
on one thread, timed in processor seconds (other work on the machine counts less); a ratio is taken
in each round and its median printed. Target: at most 1.15.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sextant.contracts import Streams
from sextant.paths import find_project
from sextant.runs import training
from sextant.runs.build import build
from sextant.runs.compose import Composer
from sextant.runs.store import RunFolder

METHODS = ("flow/flow_matching", "flow/mean_flow", "flow/ot_mean_flow_exact")


def prepared(method: str, steps: int):
    """The student and the data of table 12's first task."""
    composer = Composer(find_project().conf)
    config = composer.config("generation/normal_to_eight_gaussians", method, "small", 0)
    config["task"]["data"]["steps"] = config["method"]["module"]["steps"] = steps
    streams = Streams(0)
    data = build(config["task"]["data"])
    data.prepare(streams, {})
    training.seed_initialisation(0)
    student = build(config["method"]["module"])
    student.prepare(streams, {}, data)
    return student, data


def bare(method: str, steps: int) -> float:
    """Milliseconds a step of a loop without a Trainer."""
    student, data = prepared(method, steps)
    chosen = student.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    started = time.process_time()
    for step in range(steps):
        loss, _ = student.loss(*data.draw_batch(step), step)
        optimizer.zero_grad()
        loss.backward()
        student.limit_gradient()
        optimizer.step()
        schedule.step()
        student.update_average(step + 1)
    return 1000 * (time.process_time() - started) / steps


def through_sextant(method: str, steps: int, folder: Path) -> float:
    """Milliseconds a step of `training.fit`, the Trainer's start included."""
    student, data = prepared(method, steps)
    settings = Composer(find_project().conf).setting("trainer", "default")
    settings["accelerator"] = "cpu"
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        started = time.process_time()
        training.fit(
            student,
            data,
            RunFolder(Path(inside)),
            steps,
            settings,
            None,
            lambda *_: None,
            training.StopRequest(),
        )
        return 1000 * (time.process_time() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="steps a round")
    parser.add_argument("--rounds", type=int, default=9, help="rounds after one warm-up")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("method", "bare, ms a step", "through Sextant", "ratio", "target")
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            pairs = [
                (bare(method, asked.steps), through_sextant(method, asked.steps, Path(folder)))
                for _ in range(asked.rounds + 1)
            ][1:]
            ratio = statistics.median(ours / theirs for theirs, ours in pairs)
            loop, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            table.add_row(method, f"{loop:.2f}", f"{ours:.2f}", f"{ratio:.2f}", "1.15")
    Console().print(table)


if __name__ == "__main__":
    main()
