"""What runs ask of a SLURM cluster: conf/cluster/<name>.yaml, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sextant.errors import UserError, unknown
from sextant.runs.compose import Composer
from sextant.runs.spec import RunSpec

BEYOND_TRAINING = 30  # minutes to fetch data, to begin and to be examined, over the time limit
TEXTS = ("partition", "account", "qos", "constraint")
LOCAL = "conf/local/default.yaml"


@dataclass(frozen=True)
class Cluster:
    """Resources of one run and how the queue is used.

    Args:
        partition, account, qos, constraint: as sbatch has them; None leaves the site's default.
        minutes: the longest time to ask for; a longer run is put back into the queue and goes on.
        memory_gb, cpus: of each process of a run.
        gpus: of each process of a run that needs a GPU; other runs ask for none.
        setup: shell lines before the run (module load ..., source .../activate).
        runs_at_once: of one array.
        notice_seconds: how long before its time is up a run is told to write its checkpoint.
        options: any other options of sbatch, by their long names.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: int = 120
    memory_gb: float = 8
    cpus: int = 2
    gpus: int = 1
    setup: tuple[str, ...] = ()
    runs_at_once: int = 64
    notice_seconds: int = 90
    options: Mapping[str, Any] = field(default_factory=dict)

    def minutes_of(self, spec: RunSpec) -> int:
        """The minutes to ask for: what the run may take at most, within `minutes`."""
        if spec.time_limit is None:
            return self.minutes
        return min(self.minutes, math.ceil(spec.time_limit / 60) + BEYOND_TRAINING)


def read_cluster(conf: Path, name: str) -> Cluster:
    """The cluster of conf/cluster/<name>.yaml, or a site's own of conf/local/cluster/<name>.yaml.

    What conf/local/default.yaml says under `cluster` goes over the former.

    Raises:
        UserError: for a name that has no file, a key that is not known, or a value that is no value
            of its key.
    """
    composer = Composer(conf)
    group = next(
        (group for group in ("local/cluster", "cluster") if name in composer.options(group)), None
    )
    if group is None:
        raise unknown(
            "cluster", name, composer.options("cluster") + composer.options("local/cluster")
        )
    own = composer.local(group)
    if not isinstance(own, Mapping):
        raise UserError(
            f"{LOCAL}: cluster must be a mapping such as {{partition: gpu}}, not {own!r}"
        )
    return checked(composer.setting(group, name), f"conf/{group}/{name}.yaml", own)


def checked(settings: Mapping[str, Any], where: str, local: Collection[str] = ()) -> Cluster:
    """The cluster that settings describe.

    Args:
        where: their file, named in what is said of a mistake.
        local: the keys that stand in conf/local/default.yaml instead.
    """
    names = [entry.name for entry in fields(Cluster)]
    for key, value in settings.items():
        file = LOCAL if key in local else where
        if key not in names:
            raise unknown(f"key in {file}", key, names)
        wanted = _wanted(key, value)
        if wanted:
            raise UserError(f"{file}: {key} must be {wanted}, not {value!r}")
    settings = dict(settings)
    settings["setup"] = tuple(settings.get("setup") or ())
    settings["options"] = dict(settings.get("options") or {})
    return Cluster(**settings)


def _wanted(key: str, value: Any) -> str | None:
    """What the value of a key must be, where it is not that."""
    if key in TEXTS:
        return None if value is None or isinstance(value, str) else "text or null"
    if key == "setup":
        fits = value is None or (
            isinstance(value, list) and all(isinstance(line, str) for line in value)
        )
        return None if fits else "a list of shell lines"
    if key == "options":
        fits = value is None or isinstance(value, Mapping)
        return None if fits else "a mapping of sbatch options"
    if key == "memory_gb":
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        return None if fits else "a number above 0"
    least = 0 if key == "gpus" else 1
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return None if fits else f"a whole number of at least {least}"
