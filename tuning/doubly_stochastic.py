"""Chooses the settings of attentions on pictures by validation accuracy; writes them to conf/tuned
and the scores of their grids to results/tuning.

What a protocol prints, such as a learning rate, is not tuned: an attention without settings of its
own has no grid there. Run `python tuning/doubly_stochastic.py --help`.
"""

from __future__ import annotations

import argparse
import copy
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from chosen import flow, scores_file, write_settings

from sextant.paths import find_project
from sextant.runs.compose import Composer, merge, spec_from_config
from sextant.runs.context import RunContext
from sextant.runs.execute import execute

COLUMNS = ("method", "steps", "seeds", "setting", "validation accuracy %", "chosen")


def attention(**settings: Any) -> dict[str, Any]:
    """Settings of the network's attention, as the method's module has them."""
    return {"network": {"attention": settings}}


GRIDS: dict[str, list[dict[str, Any]]] = {
    "sinkhorn": [
        attention(half_steps=3),
        attention(half_steps=5),
        attention(half_steps=7),
        attention(half_steps=21),
    ],
    "differential": [attention(initial=share) for share in (0.2, 0.35, 0.5, 0.8)],
    "esp": [attention(temperature=t, tau=tau) for t in (1e-3, 1e-2) for tau in (10.0, 100.0)],
    "esp_lapsum": [attention(temperature=t, tau=tau) for t in (0.03, 0.1) for tau in (10.0, 100.0)],
}
"""Four settings of every attention that has some, around those of its paper or public code."""


def followers(name: str, best: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What methods take over from the one that was tuned, by name."""
    if name != "esp":
        return {}
    rest = {key: value for key, value in best.items() if key != "network"}
    soft = best["network"]["attention"]
    annealed = attention(**soft, final_temperature=soft["temperature"] * 1e-3)
    return {"esp_hard": rest | annealed, "esp_differential": rest | attention(inner=dict(soft))}


def grid(name: str, rates: bool) -> Iterator[dict[str, Any]]:
    """The settings of a method; crossed with learning rates where those are tuned, four in all."""
    own = GRIDS.get(name, [{}])
    if not rates:
        yield from own
    elif len(own) == 1:
        yield from ({"learning_rate": rate} for rate in (3e-4, 1e-3, 2e-3, 5e-3))
    else:
        # The first and the last of the grid, each at two rates.
        for setting in (own[0], own[-1]):
            yield from (merge(setting, {"learning_rate": rate}) for rate in (1e-3, 3e-3))


def judge(
    composer: Composer,
    task: str,
    method: str,
    seed: int,
    steps: int,
    setting: Mapping[str, Any],
    context: RunContext,
) -> float:
    """Validation accuracy, in percent, of a shortened run with a setting; 0 where it diverged."""
    config = copy.deepcopy(composer.config(task, method, "small", seed))
    config["method"]["module"] = merge(config["method"]["module"], dict(setting))
    for holder in (config["method"]["module"], config["task"]["data"], config["budget"]):
        holder["steps"] = steps
    record = execute(spec_from_config(config, task, method, "small", None), context)
    if record["status"] != "done":
        return 0.0
    return record["scores"]["validation_accuracy"]["value"]


def write_grid(root: Path, task: str, method: str, rows: list[tuple[Any, ...]]) -> None:
    """Puts the scores of a method's grid into the file of its task; other methods' stay."""
    path = scores_file(root, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[Any] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] != method]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [COLUMNS, *sorted([*kept, *rows], key=lambda row: row[0])]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="on which the grids are carried out")
    parser.add_argument("--also", nargs="*", default=[], help="tasks that take the same settings")
    parser.add_argument("--steps", type=int, default=500, help="of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101], help="those of no table")
    parser.add_argument("--rates", action="store_true", help="tune learning rates too")
    parser.add_argument("--methods", nargs="+", default=sorted(GRIDS))
    parser.add_argument("--runs", type=Path, default=Path("results/tuning"))
    asked = parser.parse_args()
    project = find_project()
    composer = Composer(project.conf)
    trainer = composer.setting("trainer", "default")
    context = RunContext(project.root, asked.runs / "runs", asked.runs / "ledger", trainer)
    for name in asked.methods:
        method, judged = f"doubly_stochastic/{name}", []
        for setting in grid(name, asked.rates):
            found = [
                judge(composer, asked.task, method, seed, asked.steps, setting, context)
                for seed in asked.seeds
            ]
            judged.append((fmean(found), setting))
            print(method, flow(setting), f"{judged[-1][0]:.2f}", flush=True)
        best = max(judged, key=lambda row: row[0])[1]
        seeds = " ".join(map(str, asked.seeds))
        rows = [
            (method, asked.steps, seeds, flow(setting), f"{score:.2f}", "yes" * (setting == best))
            for score, setting in judged
        ]
        write_grid(project.root, asked.task, method, rows)
        settings = {name: best} | followers(name, best)
        settings = {f"doubly_stochastic/{key}": value for key, value in settings.items()}
        for task in (asked.task, *asked.also):
            write_settings(project.conf, task, settings, asked.task, "method.module")


if __name__ == "__main__":
    main()
