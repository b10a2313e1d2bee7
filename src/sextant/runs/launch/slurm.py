"""Hands a frozen plan to SLURM as array jobs, children after their parents, and returns at once.

The arrays go through submitit, the library that Hydra's submitit launcher is made of: the same
sbatch scripts and pickled calls, but with the settings of a plan that was resolved before, where
Hydra would compose them anew on the node.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs.context import RunContext
from sextant.runs.launch.cluster import Cluster
from sextant.runs.launch.job import carry_out_in_job
from sextant.runs.launch.submissions import job_name, record_submissions
from sextant.runs.spec import RunSpec

LONGEST_ARRAY = 1000  # SLURM's own MaxArraySize is 1001 where a site does not change it


@dataclass(frozen=True)
class Resources:
    """What a run asks of its node; runs that ask for the same share an array."""

    minutes: int
    needs_gpu: bool
    nodes: int = 1
    processes_per_node: int = 1


def check_sbatch() -> None:
    """Raises a UserError where there is no sbatch to submit with."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "where=slurm needs the command sbatch, which is not on this machine; "
            "use where=local, or call this on the cluster's login node"
        )


def launch(
    plan: Path,
    specs: Sequence[RunSpec],
    context: RunContext,
    cluster: Cluster,
    folder: Path,
    queued: Mapping[str, str] | None = None,
    again: Collection[str] = (),
) -> dict[str, str]:
    """Submits the plan's runs, one array for those that ask for the same and wait for the same.

    Args:
        specs: the runs of the plan.
        folder: where the arrays are remembered and the jobs keep their logs.
        queued: the jobs, by run id, of runs that are in the queue already; runs that start from
            them wait for them.
        again: ids of failed runs to try again.

    Returns:
        The job of each run that was submitted, by run id.

    Raises:
        UserError: where there is no sbatch, or it refuses.
    """
    check_sbatch()
    name = job_name(plan.stem)
    jobs = dict(queued or {})
    sent: dict[str, str] = {}
    for generation in generations(specs):
        for resources, parents, indices in groups(specs, generation, cluster, jobs, context):
            wanted = parameters(name, resources, parents, cluster)
            calls = [(plan, i, context, specs[i].run_id in again) for i in indices]
            ids = _submit(folder / plan.stem, wanted, calls)
            array = {specs[index].run_id: job for index, job in zip(indices, ids, strict=True)}
            record_submissions(folder, name, folder / plan.stem, array)
            jobs |= array
            sent |= array
    return sent


def _submit(logs: Path, wanted: Mapping[str, Any], calls: Sequence[tuple[Any, ...]]) -> list[str]:
    import submitit

    executor = submitit.AutoExecutor(folder=logs, cluster="slurm")
    executor.update_parameters(**wanted)
    try:
        submitted = executor.map_array(carry_out_in_job, *zip(*calls, strict=True))
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"sbatch refuses: {reason}") from None
    return [job.job_id for job in submitted]


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


def groups(
    specs: Sequence[RunSpec],
    indices: Iterable[int],
    cluster: Cluster,
    jobs: Mapping[str, str],
    context: RunContext,
) -> list[tuple[Resources, tuple[str, ...], list[int]]]:
    """Indices that may share an array, with what they ask for and the jobs they wait for.

    A run waits for its own parents alone, so one parent that fails or is late holds up nobody
    else's children.
    """
    found: dict[tuple[Resources, tuple[str, ...]], list[int]] = {}
    nodes = context.nodes
    for index in indices:
        spec = specs[index]
        parents = {jobs[p.run_id] for p in spec.parents.values() if p.run_id in jobs}
        resources = Resources(
            cluster.minutes_of(spec), spec.needs_gpu, nodes, context.processes // nodes
        )
        found.setdefault((resources, tuple(sorted(parents))), []).append(index)
    return [
        (*key, together[first : first + LONGEST_ARRAY])
        for key, together in found.items()
        for first in range(0, len(together), LONGEST_ARRAY)
    ]


def parameters(
    name: str, resources: Resources, parents: Sequence[str], cluster: Cluster
) -> dict[str, Any]:
    """submitit's parameters for one array."""
    wanted: dict[str, Any] = {
        "name": name,
        "timeout_min": resources.minutes,
        "cpus_per_task": cluster.cpus,
        "mem_gb": cluster.memory_gb * resources.processes_per_node,
        "slurm_array_parallelism": cluster.runs_at_once,
        "slurm_signal_delay_s": cluster.notice_seconds,
        "slurm_setup": list(cluster.setup),
    }
    if resources.needs_gpu and cluster.gpus:
        wanted["gpus_per_node"] = cluster.gpus * resources.processes_per_node
    if resources.nodes * resources.processes_per_node > 1:
        wanted |= {"nodes": resources.nodes, "tasks_per_node": resources.processes_per_node}
        # Where one process dies the others would wait for it until their time is up.
        wanted["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    for option in ("partition", "account", "qos", "constraint"):
        if getattr(cluster, option) is not None:
            wanted[f"slurm_{option}"] = getattr(cluster, option)
    options = {"requeue": True, **cluster.options}
    if parents:
        # An orphan would wait for ever: it leaves the queue when its parent fails.
        options |= {"dependency": f"afterok:{':'.join(parents)}", "kill-on-invalid-dep": "yes"}
    wanted["slurm_additional_parameters"] = options
    return wanted
