from __future__ import annotations

import pytest

from sextant.runs.surroundings import Surroundings
from tests.toy import ROOT


@pytest.fixture
def surroundings(tmp_path) -> Surroundings:
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "checkpoint_seconds": 60,
        "checkpoint_steps": None,
        "log_every": 2,
    }
    return Surroundings(ROOT, tmp_path / "runs", tmp_path / "ledger", trainer)
