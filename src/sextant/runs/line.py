"""What a ledger line must be, and which of several lines of a run counts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sextant.printable import printable, printable_texts
from sextant.runs.spec import TIERS

FIELDS = (
    "run_id",
    "task",
    "method",
    "tier",
    "seed",
    "status",
    "scores",
    "spec",
    "parents",
    "provenance",
    "seconds",
    "peak_memory_mb",
)
STATUSES = ("done", "failed")
REASONS = ("diverged", "oom", "timeout", "error")
BETTER = ("higher", "lower")
RUN_ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")
MAPPINGS, TEXTS = ("packages", "hardware", "data"), ("commit", "python", "device")


def problem(record: Any) -> str | None:
    """What is wrong with a ledger line, as the end of a sentence about it, or None."""
    if not isinstance(record, Mapping):
        return "is not a mapping"
    missing = [field for field in FIELDS if field not in record]
    if missing:
        return f"lacks the field {missing[0]!r} (fields: {', '.join(FIELDS)})"
    return (
        problem_of_head(record)
        or _problem_of_rest(record)
        or _problem_of_scores(record["scores"])
        or _problem_of_provenance(record["provenance"])
    )


def problem_of_head(record: Mapping[str, Any]) -> str | None:
    """The same for the fields that say what a run is and how it ended."""
    for field in FIELDS[:6]:
        if field not in record:
            return f"lacks the field {field!r} (fields: {', '.join(FIELDS)})"
    run_id, status = record["run_id"], record["status"]
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        return f"has the run id {run_id!r}, which is not 12 hexadecimal digits"
    for key in ("task", "method"):
        # the family of a task names a ledger file, so nothing but plain names may pass
        if not isinstance(record[key], str) or not NAME.fullmatch(record[key]):
            return f"names the {key} {record[key]!r}, which is not FAMILY/NAME"
    if record["tier"] not in TIERS:
        return f"names the tier {record['tier']!r}; allowed: {', '.join(TIERS)}"
    if not isinstance(record["seed"], int) or isinstance(record["seed"], bool):
        return f"has the seed {record['seed']!r}, which is no whole number"
    if status not in STATUSES:
        return f"has status {status!r} (allowed: {', '.join(STATUSES)})"
    if status == "failed" and record.get("reason") not in REASONS:
        return f"has reason {record.get('reason')!r} (allowed: {', '.join(REASONS)})"
    return None


def _problem_of_rest(record: Mapping[str, Any]) -> str | None:
    for key in ("spec", "scores", "provenance"):
        if not isinstance(record[key], Mapping):
            verb = "that are" if key == "scores" else "that is"
            return f"has {key} {verb} no mapping"
    for key in ("parents", "former_ids"):
        ids = record.get(key, [])
        if not isinstance(ids, list) or not all(isinstance(entry, str) for entry in ids):
            return f"has {key} {ids!r}, which are no list of run ids"
    if not _is_number(record["seconds"]) or record["seconds"] < 0:
        return f"has seconds {record['seconds']!r}, which are no number of at least 0"
    memory = record["peak_memory_mb"]
    if memory is not None and not (_is_number(memory) and memory >= 0):
        return f"has peak_memory_mb {memory!r}, which is no number of at least 0"
    for key in ("message", "ended"):
        if not isinstance(record.get(key, ""), str):
            return f"has {key} {record[key]!r}, which is no text"
    return None


def _problem_of_scores(scores: Mapping[str, Any]) -> str | None:
    for metric, score in scores.items():
        if not isinstance(score, Mapping):
            return f"has a score {metric} that is no mapping"
        value, n, error = (score.get(key) for key in ("value", "n", "standard_error"))
        if not metric or not metric.isprintable():
            return f"has a score of the name {metric!r}"
        if not _is_number(value):
            return f"has a score {metric} of value {value!r}"
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            return f"has a score {metric} on n = {n!r} examples"
        if error is not None and not (_is_number(error) and error >= 0):
            return f"has a score {metric} with the standard error {error!r}"
        if score.get("better") not in BETTER:
            return f"has a score {metric} with better = {score.get('better')!r}"
    return None


def _problem_of_provenance(provenance: Mapping[str, Any]) -> str | None:
    for keys, kind, name in ((TEXTS, str, "text"), (MAPPINGS, Mapping, "mapping")):
        for key in keys:
            if not isinstance(provenance.get(key), kind | None):
                return f"has provenance.{key} {provenance[key]!r}, which is no {name}"
    if not isinstance(provenance.get("code"), str | Mapping | None):
        return f"has provenance.code {provenance['code']!r}, which is no digest"
    return None


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def parsed(line: str) -> tuple[Any, str | None]:
    """The content of a line, and what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"is not valid JSON ({error})"
    fault = problem(record)
    if fault:
        return None, fault
    plain = line.isascii() and "\\" not in line and "\x7f" not in line
    return record if plain else _shown_safely(record), None


def _shown_safely(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the texts that are shown and that no id depends on without control
    characters."""
    record["provenance"] = printable_texts(record["provenance"])
    if "message" in record:
        record["message"] = " ".join(printable(record["message"]).split())
    return record


def rank(record: Mapping[str, Any]) -> tuple[bool, str, str]:
    """The line of the highest rank counts, in whatever order branches were merged: a result before
    a failure, then the last to end; the text decides where nothing else does."""
    text = json.dumps(record, sort_keys=True)
    return record["status"] == "done", record.get("ended", ""), text
