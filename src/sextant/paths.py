"""Where a checkout keeps its configs, tasks and results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sextant.errors import UserError


@dataclass(frozen=True)
class Project:
    """A checkout: `root` holds conf, tasks and results.

    `results` can be moved by $SEXTANT_RESULTS, which is how a reproduction from nothing keeps the
    committed ledger out of sight.
    """

    root: Path
    results: Path

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def runs(self) -> Path:
        return self.results / "runs"

    @property
    def ledger(self) -> Path:
        return self.results / "ledger"

    @property
    def plans(self) -> Path:
        return self.results / "plans"

    @property
    def slurm(self) -> Path:
        return self.results / "slurm"

    @property
    def tables(self) -> Path:
        return self.results / "tables"

    @property
    def figures(self) -> Path:
        return self.results / "figures"


def find_project() -> Project:
    """The checkout around the working directory, or the one this package is installed from."""
    candidates = [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]]
    for folder in candidates:
        if (folder / "conf" / "config.yaml").is_file() and (folder / "tasks").is_dir():
            results = os.environ.get("SEXTANT_RESULTS")
            return Project(folder, Path(results).resolve() if results else folder / "results")
    raise UserError("no Sextant checkout here: no folder above this one holds conf/config.yaml")
