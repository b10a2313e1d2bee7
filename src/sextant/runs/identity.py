"""What makes two runs the same run.

A run's id is a digest of its resolved settings and its parents' ids: never a time, never a typed
name. Settings that cannot change a result are left out by the explicit list `LEFT_OUT`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

LEFT_OUT = (
    "trainer",
    "logger",
    "cluster",
    "hydra",
    "workers",
    "tier.description",
    "tier.time_limit",
    "tier.needs_gpu",
)


def identifying(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that a run's id is made from."""
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    for path in (entry.split(".") for entry in LEFT_OUT if "." in entry):
        group, key = path
        if isinstance(kept.get(group), Mapping):
            kept[group] = {name: value for name, value in kept[group].items() if name != key}
    return kept


def normalised(value: Any) -> Any:
    """Settings with one spelling for each value: 1, 1.0 and 1e0 are the same number.

    Raises:
        ValueError: for a number that is not finite.
        TypeError: for a value that is no plain data.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError(f"a setting is {value}; settings must be finite numbers")
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, Mapping):
        return {str(key): normalised(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Sequence):
        return [normalised(item) for item in value]
    raise TypeError(f"a setting has the type {type(value).__name__}; settings are plain data")


def run_id(settings: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """12 hexadecimal digits of sha256 over the canonical settings and the parents' ids."""
    content = {"settings": normalised(settings), "parents": normalised(parents)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
