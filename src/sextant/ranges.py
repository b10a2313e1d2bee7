"""Ranges of settings: what is allowed, said once, and one sentence for what is not.

Every function takes values by their names, as a user writes them, and raises a ValueError that
names the setting, what is allowed and what was given.

>>> at_least(1, steps=steps, batch_size=batch_size)
>>> within("[0, 1)", momentum=momentum)
"""

from __future__ import annotations

import math
from typing import Any, get_args


def at_least(least: float, **values: float) -> None:
    """Values that must be `least` or more; infinity is, a value that is not a number is not."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def positive(**values: float) -> None:
    """Values that must be above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def positive_and_finite(**values: float) -> None:
    """Values that must be above 0 and below infinity."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def not_negative(**values: float) -> None:
    """Values that must be 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def within(interval: str, **values: float) -> None:
    """Values that must lie in an interval such as "[0, 1)": square brackets hold their end."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in values.items():
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} must lie in {interval}, got {value}")


def one_of(choices: Any, **values: object) -> None:
    """Values that must be one of the choices: a sequence, or a `Literal`."""
    known = get_args(choices) or tuple(choices)
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
