"""Hands a frozen plan to SLURM: one array job a generation, children after their parents."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs.spec import RunSpec
from sextant.runs.surroundings import Surroundings
from sextant.runs.worker import carry_out


def launch(
    plan: Path,
    specs: Sequence[RunSpec],
    surroundings: Surroundings,
    cluster: Mapping[str, Any],
    folder: Path,
    executor_name: str = "slurm",
) -> list[str]:
    """Submits the plan and returns the job ids at once.

    Args:
        cluster: submitit's parameters for one run (partition, timeout_min, mem_gb, ...).
        folder: where the jobs keep their logs.
        executor_name: submitit's executor; `local` runs the jobs as processes (for tests).

    Raises:
        UserError: where there is no sbatch to submit with.
    """
    if executor_name == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "where=slurm needs the command sbatch, which is not on this machine; "
            "use where=local, or call this on the cluster's login node"
        )
    import submitit

    jobs: list[str] = []
    before: list[str] = []
    for generation in generations(specs):
        executor = submitit.AutoExecutor(folder=folder, cluster=executor_name)
        parameters = {**cluster, "name": f"sextant-{plan.stem}"}
        if before and executor_name == "slurm":
            dependency = {"dependency": f"afterok:{':'.join(before)}"}
            parameters["slurm_additional_parameters"] = dependency
        if executor_name != "slurm":
            parameters = {"timeout_min": cluster.get("timeout_min", 10)}
        executor.update_parameters(**parameters)
        submitted = executor.map_array(
            _carry_out, [plan] * len(generation), generation, [surroundings] * len(generation)
        )
        if executor_name != "slurm":
            for job in submitted:
                job.wait()
        before = sorted({job.job_id.split("_")[0] for job in submitted})
        jobs.extend(job.job_id for job in submitted)
    return jobs


def generations(specs: Sequence[RunSpec]) -> list[list[int]]:
    """Indices of the plan's runs: those without parents in it, then their children, and so on."""
    depth: dict[str, int] = {}
    planned = {spec.run_id for spec in specs}

    def depth_of(spec: RunSpec) -> int:
        inside = [parent for parent in spec.parents.values() if parent.run_id in planned]
        return 1 + max((depth_of(parent) for parent in inside), default=-1)

    for spec in specs:
        depth[spec.run_id] = depth_of(spec)
    deepest = max(depth.values(), default=-1)
    return [
        [index for index, spec in enumerate(specs) if depth[spec.run_id] == level]
        for level in range(deepest + 1)
    ]


def _carry_out(plan: Path, index: int, surroundings: Surroundings) -> str:
    """One element of the array; a refusal or an interruption fails the job, visibly."""
    kind, *content = carry_out(plan, index, surroundings)
    if kind != "ended":
        raise UserError(content[0] if content else "the run was interrupted and can be resumed")
    return content[0]["run_id"]
