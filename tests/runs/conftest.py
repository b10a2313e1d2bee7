from __future__ import annotations

import pytest

from sextant.runs.context import RunContext
from tests.toy import ROOT


@pytest.fixture
def context(tmp_path) -> RunContext:
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "checkpoint_seconds": 60,
        "checkpoint_steps": None,
        "log_every": 2,
    }
    return RunContext(ROOT, tmp_path / "runs", tmp_path / "ledger", trainer)
