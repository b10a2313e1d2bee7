"""Tests run side by side, one a core; threads of their own would only get in each other's way."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def wandb_client(monkeypatch, tmp_path):
    """What the W&B client is asked for, in an environment of which nothing leaves this machine."""
    import wandb

    from tests.recorded_wandb import KEY, SERVER, Client

    wandb.teardown()  # before its address is taken out, else the end would put a dead one back
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "WANDB_API_KEY": KEY, "WANDB_BASE_URL": SERVER, "WANDB_DIR": str(tmp_path),
        "WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "true",
        "WANDB_X_DISABLE_META": "true", "NETRC": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield Client(monkeypatch, tmp_path)
    wandb.teardown()
