from __future__ import annotations

import pytest

from sextant.runs.context import RunContext
from tests.toy import ROOT

TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "checkpoint_seconds": 60,
    "checkpoint_steps": None,
    "log_every": 2,
}


@pytest.fixture
def context(tmp_path) -> RunContext:
    return RunContext(ROOT, tmp_path / "runs", tmp_path / "ledger", TRAINER)
