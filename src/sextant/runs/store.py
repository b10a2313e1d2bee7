"""The folder of a run: what it holds, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextant.files import disk_errors, read_json, write_json
from sextant.runs.spec import RunSpec


@dataclass(frozen=True)
class RunFolder:
    """Everything one run keeps: results/runs/<run id>/."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.ckpt"

    @property
    def code(self) -> Path:
        """The digest of the code that wrote the checkpoint."""
        return self.path / "code.txt"

    @property
    def student(self) -> Path:
        return self.path / "student.pt"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.csv"

    @property
    def samples(self) -> Path:
        return self.path / "samples.npz"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def forget_half_written(self) -> None:
        """Removes what killed processes left of files that only the owner of the run writes."""
        ours = (self.checkpoint, self.code, self.student, self.state, self.curves, self.samples)
        for path in (*ours, self.result, self.pictures / "*"):
            for left in path.parent.glob(f".{path.name}.*"):
                left.unlink(missing_ok=True)

    def finished(self) -> dict[str, Any] | None:
        """The ledger line this folder's run ended with, or None while it has not ended."""
        return read_json(self.result) if self.result.is_file() else None


def open_folder(runs: Path, spec: RunSpec) -> RunFolder:
    """The run's folder, made and labelled with its spec if it is new."""
    folder = RunFolder(runs / spec.run_id)
    with disk_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        if not folder.spec.is_file():
            write_json(folder.spec, spec.to_json())
    return folder
