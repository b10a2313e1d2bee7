"""Tests run side by side, one a core; threads of their own would only get in each other's way."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def wandb_server(monkeypatch, tmp_path):
    """A stand-in for the W&B server that this process and its children talk to, and to no other."""
    import wandb

    from tests.wandb_server import Server

    wandb.teardown()  # before its address is taken out, else the end would put a dead one back
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with Server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        yield server
        wandb.teardown()
