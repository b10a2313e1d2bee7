"""Chooses settings of unlearning methods by what each may see; writes them to conf/tuned
and the scores of their grids to results/tuning.

Run `python tuning/unlearning.py --help`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from chosen import Judged, write_scores, write_settings
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sextant.contracts import Streams
from sextant.methods.unlearning.inversion import Inversion
from sextant.methods.unlearning.problem import Examples, PixelSpace, forget_accuracy
from sextant.paths import Project, find_project
from sextant.runs.build import build
from sextant.runs.compose import Composer, merge
from sextant.runs.context import RunContext
from sextant.runs.execute import execute

GRIDS: dict[str, dict[str, list[Any]]] = {
    "finetune": {"rate": [0.003, 0.01, 0.03, 0.1]},
    "neggrad": {"rate": [1e-6, 3e-6, 1e-5, 3e-5]},
    "neggrad_plus": {"alpha": [0.8, 0.9, 0.95, 0.99]},
    "random_label": {"rate": [1e-4, 5e-4, 2.5e-3, 1e-2]},
    "boundary_shrink": {"rate": [1e-5, 1e-4, 1e-3, 5e-3]},
    "boundary_expand": {"rate": [1e-5, 1e-4, 1e-3, 5e-3]},
    "amnesiac_labels": {"rate": [3e-5, 1e-4, 3e-4, 1e-3]},
    "salun": {"rate": [0.002, 0.005, 0.013, 0.05]},
    "scrub": {"rate": [5e-5, 1e-4, 2e-4, 5e-4]},
    "ssd": {"alpha": [1.0, 3.0, 10.0, 30.0]},
    "lcodec": {"damping": [1e-3, 1.5e-3, 2e-3, 3e-3]},
    "fisher": {"alpha": [1e-8, 1e-7, 1e-6, 1e-5]},
    "unsir": {"rate": [3e-4, 3e-3], "repair_rate": [3e-4, 3e-3]},
    "error_minimising_noise": {"rate": [3e-4, 3e-3], "repair_rate": [3e-4, 3e-3]},
    "unsc": {"rate": [0.1, 0.3, 1.0, 3.0]},
    "pgu": {"rate": [0.1, 0.3, 1.0, 3.0]},
    "gkt": {"rate": [3e-4, 1e-3, 3e-3, 1e-2]},
    "covarnav_no_projection": {"rate": [3e-6, 1e-5, 3e-5, 1e-4]},
    "covarnav_noise": {"rate": [1e-4, 3e-4], "setting": [{"factor": 300.0}, {"factor": 3000.0}]},
    "covarnav": {"rate": [1e-4, 3e-4], "setting": [{"factor": 10.0}, {"factor": 30.0}]},
}
"""Four settings of every method, around those of its paper or public code; moved once where the
best lay at an edge."""
TASK_GRIDS: dict[str, dict[str, dict[str, list[Any]]]] = {
    "unlearning/faces_class": {
        "finetune": {"rate": [0.03, 0.1, 0.3, 1.0]},
        "neggrad": {"rate": [3e-5, 1e-4, 3e-4, 1e-3]},
        "covarnav_no_projection": {"rate": [3e-5, 1e-4, 3e-4, 1e-3]},
        "covarnav_noise": {
            "rate": [3e-4, 1e-3],
            "setting": [{"factor": 300.0}, {"factor": 3000.0}],
        },
        "covarnav": {"rate": [3e-4, 1e-3], "setting": [{"factor": 10.0}, {"factor": 30.0}]},
    },
}
"""Where a task's own grid takes the place: a person's photos make three steps an epoch."""

LABELS = ("fgsm", "random", "least", "ascent")
PROXIES = ("plain_inversion", "given", "all_given")
STRENGTHS = (
    *(f"nscl_{factor}" for factor in (10, 30, 100, 300, 1000)),
    *(f"gpm_{energy}" for energy in (30, 50, 70, 90, 97)),
    *(f"soft_{strength}" for strength in ("001", "01", "1", "10")),
)
FOLLOWERS: dict[str, dict[str, tuple[str, ...]]] = {
    "covarnav": {
        **{f"covarnav_{name}": ("rate", "setting") for name in (*LABELS, *PROXIES)},
        **{f"covarnav_{name}": ("rate",) for name in STRENGTHS},
    },
    "covarnav_no_projection": {f"covarnav_{name}_no_projection": ("rate",) for name in LABELS},
}
"""Ablations, which differ from a method in one thing and take from it the named settings."""
SAME_SETTINGS = {"unlearning/cifar10_subset": ("unlearning/cifar10_shadows",)}
"""Tasks that pose the problem of another one and take all settings from it."""


class Remembered:
    """An inversion that draws the same images once, for settings that differ elsewhere."""

    def __init__(self, inversion: Inversion, memory: dict[Any, Any]) -> None:
        self.inversion, self.memory, self.noise = inversion, memory, inversion.noise

    def __call__(self, model: Any, classes: Any, shape: Any, space: Any, generator: Any) -> Any:
        """As the inversion."""
        key = (tuple(classes), generator.initial_seed())
        if key not in self.memory:
            self.memory[key] = self.inversion(model, classes, shape, space, generator)
        return self.memory[key]


class Problem:
    """A trained model of a seed, and what settings are judged by."""

    def __init__(self, task: str, seed: int, tier: str, context: RunContext) -> None:
        self.streams = Streams(seed)
        composer = Composer(context.root / "conf")
        spec = composer.spec(task, "unlearning/original", tier, seed)
        execute(spec.parents["original"], context)
        self.parents = {"original": _Loaded(spec.parents["original"], context.runs)}
        self.data = build(spec.settings["task"]["data"])
        self.data.prepare(self.streams, {})
        inversion = build(spec.settings["task"]["inversion"])
        inversion = replace(inversion, images=20 * self.data.classes, batch_size=200)
        shape = self.data.examples("forgotten")[0].shape[1:]
        network = self.parents["original"].load().network
        # Drawn from another stream than any method's own images.
        drawn = inversion(
            network,
            tuple(range(self.data.classes)),
            tuple(shape),
            PixelSpace(
                (self.data.mean,) * self.data.channels, (self.data.deviation,) * self.data.channels
            ),
            self.streams.generator("tuning/inversion"),
        ).examples
        gone = torch.isin(drawn.labels, torch.tensor(self.data.forgotten_classes))
        self.inverted_kept = Examples(drawn.inputs[~gone], drawn.labels[~gone])
        self.inverted_gone = Examples(drawn.inputs[gone], drawn.labels[gone])
        inputs, labels = self.data.examples("validation")
        kept = ~torch.isin(labels, torch.tensor(self.data.forgotten_classes))
        self.validation_kept = Examples(inputs[kept], labels[kept])
        self.forgotten = Examples(*self.data.examples("forgotten"))
        # A class is to be unknown; of a random subset as much known as of pictures never seen.
        self.aim = 0.0 if self.data.forgotten_classes else spec.settings["task"]["stop_at"]

    def score(self, kept: float, gone: float) -> float:
        """What the chosen setting has most of."""
        return kept - abs(gone - self.aim)

    def judge(self, student: Any) -> tuple[float, float]:
        """Kept and forgotten accuracy of a setting, on what its method may see."""
        student.prepare(self.streams, self.parents, self.data)
        needs = student.method.needs
        kept = self.inverted_kept if needs.retain == "none" else self.validation_kept
        gone = self.forgotten if needs.forget else self.inverted_gone
        return (
            forget_accuracy(student.model, kept),
            # Nothing it may see is like a random subset: its forgetting counts for nothing.
            forget_accuracy(student.model, gone) if len(gone.labels) else self.aim,
        )


class _Loaded:
    def __init__(self, spec: Any, runs: Path) -> None:
        self.settings, self.weights = spec.settings, runs / spec.run_id / "student.pt"

    def load(self) -> Any:
        student = build(self.settings["method"]["module"])
        student.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        return student.eval()


def settings_of(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="unlearning/cifar10_class")
    parser.add_argument("--tier", default="small")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[101, 103], help="not those of any table"
    )
    parser.add_argument("--methods", nargs="+", choices=sorted(GRIDS), default=sorted(GRIDS))
    parser.add_argument("--runs", type=Path, default=Path("results/tuning"))
    arguments = parser.parse_args()
    project = find_project()
    trainer = Composer(project.conf).setting("trainer", "default")
    context = RunContext(project.root, arguments.runs / "runs", arguments.runs / "ledger", trainer)
    console = Console()
    composer = Composer(project.conf)
    with Progress(console=console) as progress:
        grids = GRIDS | TASK_GRIDS.get(arguments.task, {})
        total = sum(len(list(settings_of(grids[name]))) for name in arguments.methods)
        bar = progress.add_task("tuning", total=total * len(arguments.seeds))
        problems = [
            Problem(arguments.task, seed, arguments.tier, context) for seed in arguments.seeds
        ]
        memory: dict[Any, Any] = {}
        for name in arguments.methods:
            module = composer.spec(
                arguments.task, f"unlearning/{name}", arguments.tier, arguments.seeds[0]
            ).settings["method"]["module"]
            judged = []
            for setting in settings_of(grids[name]):
                found = []
                for problem in problems:
                    student = build(merge(module, {"method": setting}))
                    if hasattr(student.method, "inversion"):
                        remembered = Remembered(student.method.inversion, memory)
                        student.method = replace(student.method, inversion=remembered)
                    try:
                        found.append(problem.judge(student))
                    except FloatingPointError:
                        found.append((0.0, 1.0))
                    progress.advance(bar)
                kept, gone = (fmean(column) for column in zip(*found, strict=True))
                judged.append((problems[0].score(kept, gone), kept, gone, setting))
            best = max(judged, key=lambda row: row[0])[3]
            write(project, arguments, name, best, judged)
            console.print(shown(name, judged, best))


def shown(name: str, judged: list[tuple[float, float, float, dict]], best: dict) -> Table:
    """The grid of one method."""
    table = Table(title=name)
    for column in ("setting", "kept %", "forgotten %", "chosen"):
        table.add_column(column)
    for _, kept, gone, setting in judged:
        mark = "yes" if setting == best else ""
        table.add_row(str(setting), f"{100 * kept:.1f}", f"{100 * gone:.1f}", mark)
    return table


def write(
    project: Project,
    arguments: argparse.Namespace,
    name: str,
    best: dict[str, Any],
    judged: list[tuple[float, float, float, dict]],
) -> None:
    """The chosen setting, for the method and its ablations; the grid that it was chosen from."""
    settings = {f"unlearning/{name}": best}
    for follower, taken in FOLLOWERS.get(name, {}).items():
        settings[f"unlearning/{follower}"] = {key: best[key] for key in taken}
    for task in (arguments.task, *SAME_SETTINGS.get(arguments.task, ())):
        write_settings(project.conf, task, settings, arguments.task)
    seeds = " ".join(map(str, arguments.seeds))
    grid = [
        Judged(f"unlearning/{name}", arguments.tier, seeds, setting, 100 * kept, 100 * gone, chosen)
        for _, kept, gone, setting in judged
        for chosen in [setting == best]
    ]
    write_scores(project.root, arguments.task, f"unlearning/{name}", grid)


if __name__ == "__main__":
    main()
