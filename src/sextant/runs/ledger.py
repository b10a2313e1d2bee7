"""The ledger: one JSON line for each finished or failed run, in results/ledger/<family>.jsonl.

A run that ended more than once (a failure tried again, a parent made again, branches merged) has
several lines; a result counts before a failure, then the last to end, wherever the lines stand. A
line that cannot be used is named and left out. Every line begins with its run id, so a reader that
wants ninety runs of ten thousand parses ninety lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from sextant.errors import UserError
from sextant.files import append_line, lock, replace_file
from sextant.runs import code
from sextant.runs.line import FIELDS, parsed, problem, problem_of_head, rank
from sextant.runs.migrations import Migrations
from sextant.runs.migrations import migrate as migrate_records
from sextant.runs.spec import RunSpec

START = '{"run_id": "'


def new_record(spec: RunSpec, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's line says whatever comes of it; status, seconds and memory are still to come."""
    return {
        "run_id": spec.run_id,
        "task": spec.task,
        "method": spec.method,
        "tier": spec.tier,
        "seed": spec.seed,
        "scores": {},
        "spec": spec.to_json()["settings"],
        "parents": [parent.run_id for parent in spec.parents.values()],
        "provenance": dict(provenance),
    }


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
    """The line that counts of every run, or of the runs asked for, by run id.

    Lines that cannot be used, and results that contradict each other, are named on stderr.

    Raises:
        UserError: for a ledger that may not be read.
    """
    wanted = None if run_ids is None else set(run_ids)
    found: dict[str, list[dict[str, Any]]] = {}
    for path in _files(folder):
        for number, line in _lines(path):
            run_id = line[len(START) : len(START) + 12]
            if wanted is not None and run_id not in wanted:
                continue
            record, fault = parsed(line)
            if fault is None and record["run_id"] != run_id:
                fault = "gives two run ids"
            if fault is None:
                found.setdefault(run_id, []).append(record)
            else:
                _name(_left_out(path, number, fault))
    return {run_id: _counting(lines) for run_id, lines in found.items()}


def _counting(lines: list[dict[str, Any]]) -> dict[str, Any]:
    if len(lines) == 1:
        return lines[0]
    best = max(lines, key=rank)
    if any(line["status"] == "done" and line["scores"] != best["scores"] for line in lines):
        _name(
            f"the ledger has differing scores of run {best['run_id']} ({best['task']} "
            f"{best['method']} seed {best['seed']}); those that were made last count"
        )
    return best


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
        UserError: for a ledger that may not be read.
    """
    found: dict[str, Summary] = {}
    failures: dict[str, list[dict[str, Any]]] = {}
    for path in _files(folder):
        for number, line in _lines(path):
            record, fault = _head(line)
            if fault is not None:
                _name(_left_out(path, number, fault))
            elif record["status"] == "done":
                found[record["run_id"]] = Summary.of(record)
            else:
                failures.setdefault(record["run_id"], []).append(record)
                found.setdefault(record["run_id"], Summary.of(record))
    for run_id, lines in failures.items():
        if found[run_id].status == "failed":
            found[run_id] = Summary.of(max(lines, key=rank))
    return found


def _head(line: str) -> tuple[Any, str | None]:
    """What a line says of its run before the scores of a finished one, and what is wrong."""
    head, _, rest = line.partition(', "scores": ')
    if not (rest and head.endswith('"status": "done"')):
        return parsed(line)
    try:
        record = json.loads(f"{head}}}")
    except ValueError as error:
        return None, f"is not valid JSON ({error})"
    return record, problem_of_head(record)


def migrate(folder: Path, migrations: Migrations) -> dict[str, str]:
    """Rewrites every line under today's names; returns the new ids by the former ones.

    A line that cannot be used stays as it is.
    """
    moved: dict[str, str] = {}
    records = migrate_records(read(folder), migrations)
    for path in _files(folder):
        with path.open("rb") as file:
            lock(file.fileno())  # what is appended meanwhile goes into the new file
            lines = [_migrated(line, records, moved) for line in file]
            if moved:
                replace_file(path, partial(Path.write_bytes, data=b"".join(lines)))
    return moved


def _migrated(line: bytes, records: Mapping[str, Any], moved: dict[str, str]) -> bytes:
    record, fault = parsed(line.decode(errors="replace"))
    new = None if fault else records.get(record["run_id"])
    if new is None or new["run_id"] == record["run_id"]:
        return line
    moved[record["run_id"]] = new["run_id"]
    # a line that does not count keeps what it says but for the names
    names = {key: new[key] for key in ("run_id", "spec", "parents", "former_ids")}
    return (json.dumps(record | names, ensure_ascii=True, allow_nan=False) + "\n").encode()


def parse(line: str, where: str) -> dict[str, Any]:
    """One checked ledger line.

    Raises:
        UserError: naming `where` and what is wrong.
    """
    record, fault = parsed(line)
    if fault is not None:
        raise UserError(f"{where} {fault}")
    return record


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file that begin as a ledger line does and end."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                whole = line.rstrip("\r\n")
                if whole.startswith(START) and whole.endswith("}"):
                    yield number, whole
                elif whole.startswith(START):
                    _name(_left_out(path, number, "is cut off"))
                elif whole:
                    _name(_left_out(path, number, f"does not begin with {START}..."))
    except OSError as error:
        raise UserError(f"cannot read the ledger {path}: {error.strerror}") from None


def _left_out(path: Path, number: int, fault: str) -> str:
    return (
        f"{path} line {number} {fault}; it is left out: restore it from git, or delete it and its "
        "run is made again"
    )


@cache
def _name(sentence: str) -> None:
    """Says what is wrong with the ledger, once a process."""
    print(f"sextant: {sentence}", file=sys.stderr)
