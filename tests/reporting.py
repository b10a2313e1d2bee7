"""A small report for tests: two tables, failures, a hole, curves and a picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sextant.runs.ledger import Summary
from sextant.tables.register import read_register
from sextant.tables.report.contents import Before, Report, RunFiles
from sextant.tables.schema import TableDefinition
from sextant.tables.table import Table, build
from tests.tables.conftest import ARENA, PLANE, Ledger, define

ROOT = Path(__file__).parents[1]


def plane_ledger(tier: str = "small", definition: TableDefinition | None = None) -> Ledger:
    """Table 12 with every seed done: exact OT beats independent pairing at every point."""

    def score(row: str, column: str, seed: int, at: int | None) -> float:
        level = {"mean_flow": 0.6, "ot_exact": 0.3, "floor": 0.1}[row]
        return level / (at or 1) + 0.01 * seed + (0.05 if column == "moons" else 0.0)

    return Ledger(definition or define(PLANE), tier).fill(score)


def arena_ledger(tier: str = "small") -> Ledger:
    """Table 1 with a failed run and two missing ones."""
    level = {"softmax": 36.0, "luna": 38.5, "linear": 30.0}
    made = Ledger(define(ARENA), tier).fill(lambda row, column, seed, at: level[row] + seed / 4)
    made.failed("softmax", "pathx", 1, "oom")
    for seed in (0, 1):
        del made.records[f"linear/listops/{seed}"]
    return made


def filled(made: Ledger) -> Table:
    return build(made.definition, made.tier, made.planned, made.records)


def report_of(
    ledgers: Iterable[Ledger], folder: Path, before: Before | None = None, **changes: Any
) -> Report:
    """The report of these ledgers; files of runs and figures are looked for below `folder`."""
    tables: dict[int, list[Table]] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for made in ledgers:
        tables.setdefault(made.definition.number, []).append(filled(made))
        records |= made.records
    records = changes.pop("records", records)
    definitions = {number: found[0].definition for number, found in tables.items()}

    def files(run_id: str) -> RunFiles:
        own = folder / "runs" / run_id
        if not own.is_dir():
            return RunFiles()
        return RunFiles(own / "curves.csv", tuple(sorted(own.glob("pictures/*.png"))))

    report = Report(
        register=read_register(ROOT),
        definitions=definitions,
        tables=tables,
        runs={run_id: Summary.of(record) for run_id, record in records.items()},
        records=records,
        stale=frozenset(),
        figures=folder / "figures",
        files=files,
        before=before,
    )
    return replace(report, **changes)


def leave_files(folder: Path, run_id: str, pictures: bool = False) -> None:
    """What a run leaves in its folder: curves and, where asked, a picture."""
    own = folder / "runs" / run_id
    own.mkdir(parents=True)
    lines = [f"{step},loss,{10 / step}\n" for step in range(1, 200)]
    (own / "curves.csv").write_text("step,metric,value\n" + "".join(lines))
    if pictures:
        (own / "pictures").mkdir()
        (own / "pictures" / "digits@1.png").write_bytes(grey_picture(len(run_id) % 200))


def grey_picture(shade: int) -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes([0, shade])))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")
