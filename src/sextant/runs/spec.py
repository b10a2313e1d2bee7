"""One run, described completely: what will be computed, from which settings and parents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sextant.errors import UserError
from sextant.runs import identity

TIERS = ("smoke", "small", "gpu", "paper")
PROGRAM = ".venv/bin/sextant"  # as the README calls it: nothing needs to be activated


@dataclass(frozen=True)
class RunSpec:
    """A (task, method, tier, seed) with its resolved settings.

    `settings` identify the run; `time_limit` (seconds) and `needs_gpu` only steer it. `parents`
    are the runs it starts from, by role.
    """

    task: str
    method: str
    tier: str
    seed: int
    settings: Mapping[str, Any]
    parents: Mapping[str, RunSpec] = field(default_factory=dict)
    time_limit: float | None = None
    needs_gpu: bool = False

    @cached_property
    def run_id(self) -> str:
        return identity.run_id(
            self.settings, {role: parent.run_id for role, parent in self.parents.items()}
        )

    @property
    def title(self) -> str:
        return f"{self.task} {self.method} seed {self.seed}"

    def lineage(self) -> Iterator[RunSpec]:
        """This run's ancestors and then itself, parents first; may repeat a shared ancestor."""
        for parent in self.parents.values():
            yield from parent.lineage()
        yield self

    def command(self) -> str:
        """The command that carries out this run again."""
        return run_command(self.task, self.method, self.tier, self.seed)

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "task": self.task,
            "method": self.method,
            "tier": self.tier,
            "seed": self.seed,
            "settings": identity.normalised(self.settings),
            "parents": {role: parent.to_json() for role, parent in self.parents.items()},
            "time_limit": self.time_limit,
            "needs_gpu": self.needs_gpu,
        }

    @classmethod
    def from_json(cls, frozen: Mapping[str, Any]) -> RunSpec:
        """The run as it was frozen.

        Raises:
            UserError: where the settings no longer give the id they were frozen with.
        """
        spec = cls(
            task=frozen["task"],
            method=frozen["method"],
            tier=frozen["tier"],
            seed=frozen["seed"],
            settings=frozen["settings"],
            parents={role: cls.from_json(parent) for role, parent in frozen["parents"].items()},
            time_limit=frozen["time_limit"],
            needs_gpu=frozen["needs_gpu"],
        )
        if spec.run_id != frozen["run_id"]:
            raise UserError(
                f"the frozen plan says run {frozen['run_id']} but its settings give "
                f"{spec.run_id}; the plan was edited, so make a new one"
            )
        return spec


def run_command(task: object, method: object, tier: object, seed: object) -> str:
    """The command that carries out a run again."""
    return f"{PROGRAM} run task={task} method={method} tier={tier} seed={seed}"
