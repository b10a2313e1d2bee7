"""What runs ask of a SLURM cluster: conf/cluster/<name>.yaml, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sextant.errors import UserError, unknown
from sextant.runs.compose import Composer
from sextant.runs.spec import RunSpec
from sextant.schemas import Count, Positive, Schema, Whole, checked, empty_as

BEYOND_TRAINING = 30  # minutes to fetch data, to begin and to be examined, over the time limit
LOCAL = "conf/local/default.yaml"


class Cluster(Schema):
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
    minutes: Count = 120
    memory_gb: Positive = 8
    cpus: Count = 2
    gpus: Whole = 1
    setup: Annotated[tuple[str, ...], empty_as(list)] = ()
    runs_at_once: Count = 64
    notice_seconds: Count = 90
    options: Annotated[dict[str, Any], empty_as(dict)] = Field(default_factory=dict)

    def minutes_of(self, spec: RunSpec) -> int:
        """The minutes to ask for: what the run may take at most, within `minutes`."""
        if spec.time_limit is None:
            return self.minutes
        return min(self.minutes, math.ceil(spec.time_limit / 60) + BEYOND_TRAINING)


def read_cluster(conf: Path, name: str) -> Cluster:
    """The cluster of conf/cluster/<name>.yaml, or a site's own of conf/local/cluster/<name>.yaml.

    What conf/local/default.yaml says under `cluster` goes over the former.

    Raises:
        UserError: for a name that has no file, or every fault of the settings, one line each.
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
    return checked(
        Cluster,
        composer.setting(group, name),
        lambda place: LOCAL if place and place[0] in own else f"conf/{group}/{name}.yaml",
    )
