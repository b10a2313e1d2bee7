"""The ledger: one JSON line for each finished or failed run, in results/ledger/<family>.jsonl.

A run that ended more than once (a failure tried again, a parent made again) has several lines;
the last one counts. Every line begins with its run id, so a reader that wants ninety runs of ten
thousand parses ninety lines.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sextant.errors import UserError
from sextant.runs import code
from sextant.runs.migrations import Migrations
from sextant.runs.migrations import migrate as migrate_records
from sextant.runs.store import append_line, replace_file

START = '{"run_id": "'
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


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Adds a run's line; the digests of the modules that computed it are kept once for all lines.

    Raises:
        UserError: for a record with a missing field or an unknown status, or a full disk.
    """
    fault = problem(record)
    if fault:
        raise UserError(f"a ledger line {fault}")
    ordered = {field: record[field] for field in FIELDS} | dict(record)
    modules = record["provenance"].get("code")
    if isinstance(modules, Mapping):
        ordered["provenance"] = {**record["provenance"], "code": code.remember(folder, modules)}
    line = json.dumps(ordered, ensure_ascii=True, allow_nan=False)
    append_line(folder / f"{record['task'].split('/')[0]}.jsonl", line)


def read(folder: Path, run_ids: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The last line of every run, or of the runs asked for, by run id.

    Raises:
        UserError: for a line that is not a ledger line, naming its file and number.
    """
    wanted = None if run_ids is None else set(run_ids)
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in _lines(path):
            run_id = line[len(START) : len(START) + 12]
            if wanted is not None and run_id not in wanted:
                continue
            records[run_id] = parse(line, f"{path} line {number}")
    return records


class Summary(NamedTuple):
    """What a run is and how it ended; `reason` is empty for a finished one."""

    run_id: str
    task: str
    method: str
    tier: str
    seed: int
    status: str
    reason: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Summary:
        """The summary of a ledger line."""
        return cls(*(record[name] for name in FIELDS[:6]), record.get("reason") or "")

    @property
    def outcome(self) -> str:
        """`done` or `failed (oom)`."""
        return "done" if self.status == "done" else f"failed ({self.reason or 'error'})"


def summaries(folder: Path) -> dict[str, Summary]:
    """The summary of every run by run id; of a finished run's line no more is parsed.

    Raises:
        UserError: for a line that is not a ledger line, naming its file and number.
    """
    found: dict[str, Summary] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in _lines(path):
            head, _, rest = line.partition(', "scores": ')
            short = bool(rest) and head.endswith('"status": "done"')
            record = json.loads(f"{head}}}") if short else parse(line, f"{path} line {number}")
            found[record["run_id"]] = Summary.of(record)
    return found


def migrate(folder: Path, migrations: Migrations) -> dict[str, str]:
    """Rewrites every line under today's names; returns the new ids by the former ones."""
    moved: dict[str, str] = {}
    records = migrate_records(read(folder), migrations)
    for path in sorted(folder.glob("*.jsonl")):
        lines = []
        for number, line in _lines(path):
            record = parse(line, f"{path} line {number}")
            new = records[record["run_id"]]
            if new["run_id"] != record["run_id"]:
                moved[record["run_id"]] = new["run_id"]
                # an earlier line of the run keeps what it says but for the names
                names = {key: new[key] for key in ("run_id", "spec", "parents", "former_ids")}
                line = json.dumps(record | names, ensure_ascii=True, allow_nan=False) + "\n"
            lines.append(line)
        if moved:
            replace_file(path, partial(Path.write_text, data="".join(lines)))
    return moved


def parse(line: str, where: str) -> dict[str, Any]:
    """One checked ledger line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _corrupt(where, f"is not valid JSON ({error})") from None
    fault = problem(record)
    if fault:
        raise _corrupt(where, fault)
    return record


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.startswith(START):
                raise _corrupt(f"{path} line {number}", f"does not begin with {START}...")
            if not line.endswith("}\n"):
                raise _corrupt(f"{path} line {number}", "is cut off")
            yield number, line


def problem(record: Any) -> str | None:
    if not isinstance(record, Mapping):
        return "is not a mapping"
    missing = [field for field in FIELDS if field not in record]
    if missing:
        return f"lacks the field {missing[0]!r} (fields: {', '.join(FIELDS)})"
    if record["status"] not in STATUSES:
        return f"has status {record['status']!r} (allowed: {', '.join(STATUSES)})"
    if record["status"] == "failed" and record.get("reason") not in REASONS:
        return f"has reason {record.get('reason')!r} (allowed: {', '.join(REASONS)})"
    return None


def _corrupt(where: str, problem: str) -> UserError:
    return UserError(f"{where} {problem}; restore it from git or delete that line, its run reruns")
