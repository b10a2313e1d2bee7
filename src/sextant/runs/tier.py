"""What a tier says of every run at it: conf/tier/<name>.yaml."""

from __future__ import annotations

from typing import Literal

from sextant.runs.spec import TIERS
from sextant.schemas import Flag, Positive, Schema, Text


class Tier(Schema):
    """How long the runs of a tier may take, and where.

    Args:
        name: part of a run's id; the rest is not.
        description: what to expect, and on what machine.
        time_limit: seconds of training; None for no limit.
        needs_gpu: whether runs ask the queue for one.
    """

    name: Literal[TIERS]
    description: Text | None = None
    time_limit: Positive | None = None
    needs_gpu: Flag = False
