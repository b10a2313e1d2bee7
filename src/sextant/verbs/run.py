"""sextant run: one run as a plain Hydra app."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from sextant.errors import UserError, unknown
from sextant.paths import Project, find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer, spec_from_config
from sextant.runs.launch.job import in_hydras_job, requeueing_under_hydra
from sextant.runs.spec import TIERS, RunSpec

USAGE = """usage: sextant run [task=NAME] [method=NAME] [tier=small] [seed=0] [key=value ...]

Carries out one run, after the runs it starts from, and prints its scores. It is a plain Hydra app:
any setting can be overridden, --multirun sweeps, --cfg job prints the composed config. The same
settings are the same run: asked for again, it prints what the ledger has; --again computes it anew.

examples:
  sextant run task=generation/normal_to_eight_gaussians method=flow/mean_flow tier=smoke seed=0
  sextant run method=flow/ot_mean_flow_exact tier=smoke logger=wandb
  sextant run tier=smoke seed=0,1,2 --multirun"""

FLAGS_WITH_A_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd")


def main(arguments: list[str]) -> int:
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return 0
    again = "--again" in arguments
    arguments = [argument for argument in arguments if argument != "--again"]
    import hydra

    from sextant.runs.hydra_store import register

    project = find_project()
    register(project.conf)
    _check(project.conf, arguments)
    results: list[Mapping[str, Any]] = []
    problems: list[BaseException] = []

    def job(config: Any) -> None:
        # Hydra would print a traceback and exit with 1, so what is for the user waits outside it.
        try:
            results.append(_carry_out(config, again))
        except (UserError, KeyboardInterrupt) as problem:
            if in_hydras_job():
                raise  # the list stays on the node; the launching call learns of what is raised
            problems.append(problem)

    app = hydra.main(version_base="1.3", config_path=None, config_name="config")(job)
    kept = sys.argv
    sys.argv = ["sextant run", *arguments]
    try:
        app()
    finally:
        sys.argv = kept
    if problems:
        raise problems[0]
    return 1 if any(record["status"] == "failed" for record in results) else 0


def _check(conf, arguments: list[str]) -> None:
    """Turns a mistake in the overrides into one sentence before Hydra prints many."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from sextant.runs.hydra_store import composed

    overrides = [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if not argument.startswith("-") and before not in FLAGS_WITH_A_VALUE
    ]
    choices = {"task": None, "method": None, "tier": None}
    for override in overrides:
        key, _, value = override.partition("=")
        if key in choices and "," not in value:
            allowed = TIERS if key == "tier" else Composer(conf).options(key)
            if value not in allowed:
                raise unknown(key, value, allowed)
    if any(flag in arguments for flag in ("--multirun", "-m", "--info")):
        return
    try:
        composed(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise _as_sentence(error, overrides) from None


def _as_sentence(error: Exception, overrides: list[str]) -> UserError:
    from omegaconf import OmegaConf

    from sextant.runs.hydra_store import composed

    text = " ".join(str(error).split())
    unknown_key = re.search(r"Could not override '([\w.@/]+)'", text)
    if unknown_key is None:
        return UserError(text)
    path = unknown_key[1].split(".")
    kept = [entry for entry in overrides if entry.partition("=")[0] in ("task", "method", "tier")]
    level = OmegaConf.to_container(composed(kept))
    for depth, key in enumerate(path):
        if not isinstance(level, dict) or key not in level:
            where = ".".join(path[:depth]) or "the config"
            keys = list(level) if isinstance(level, dict) else []
            return unknown(f"key in {where}", key, keys)
        level = level[key]
    return UserError(text)


def _carry_out(config: Any, again: bool) -> Mapping[str, Any]:
    """The body of the Hydra app: resolves the run, then carries out its lineage."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    project = find_project()
    choices = HydraConfig.get().runtime.choices
    task, method, tier = choices["task"], choices["method"], choices["tier"]
    composer = Composer(project.conf)
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        # Where no override is at fault, the composer says what to write where.
        composer.config(task, method, tier, 0)
        sentence = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"{task} with {method} at tier {tier} does not fit: {sentence}") from None

    _check_numbers(resolved)

    def parent_spec(parent: dict[str, Any]) -> RunSpec:
        seed = parent.get("seed", "same")
        return composer.spec(
            parent["task"],
            parent["method"],
            parent.get("tier", tier),
            resolved["seed"] if seed == "same" else seed,
        )

    spec = spec_from_config(resolved, task, method, tier, parent_spec)
    known = {} if again else ledger.read(project.ledger, [spec.run_id])
    if known:
        return _tell(project, known[spec.run_id], "; --again computes it anew")
    with requeueing_under_hydra(spec, project.runs) if in_hydras_job() else nullcontext():
        return carry_out_lineage(project, spec, resolved["trainer"], resolved["logger"], again)


def _check_numbers(resolved: Mapping[str, Any]) -> None:
    """Refuses a seed or a number of steps that is none, before anything stands in the ledger.

    Raises:
        UserError: naming what was given.
    """
    steps = (resolved.get("budget") or {}).get("steps")
    for name, value in (("seed", resolved["seed"]), ("budget.steps", steps)):
        if name == "budget.steps" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"{name} must be a whole number such as 0, not {value!r}")


def _tell(project: Project, record: Mapping[str, Any], where: str = "") -> Mapping[str, Any]:
    """Prints the scores of a run, or why it failed."""
    if record["status"] == "failed" and where:
        print(f"  failed: {record['reason']} ({record.get('message', '')})")
    for name, score in record["scores"].items():
        print(f"  {name}: {score['value']:.6g}")
    path = f"from {project.ledger}" if where else project.runs / record["run_id"]
    print(f"run {record['run_id']}: {path}{where}")
    return record


def carry_out_lineage(
    project: Project, spec: RunSpec, trainer: Any, logger: Any, again: bool = False
) -> Mapping[str, Any]:
    """Carries out the parents that are not here, then the run; prints what came of it."""
    from sextant.runs.context import RunContext
    from sextant.runs.execute import execute
    from sextant.runs.launch.progress import Progress
    from sextant.runs.training import Interrupted

    lineage = list({member.run_id: member for member in spec.lineage()}.values())
    record: dict[str, Any] = {}
    with Progress(lineage, lambda _: None, 1) as progress:
        for member in lineage:
            progress.begin(0, member)
            context = RunContext(
                project.root,
                project.runs,
                project.ledger,
                trainer,
                logger,
                report=lambda *step: (progress.step(0, *step), progress.refresh()),
                on_wait=lambda owner: progress.note(f"waiting for {owner}"),
            )
            try:
                record = execute(member, context, again and member.run_id == spec.run_id)
            except Interrupted:
                raise KeyboardInterrupt from None
            progress.end(0, member, record)
            if record["status"] == "failed":
                break
    return _tell(project, record)
