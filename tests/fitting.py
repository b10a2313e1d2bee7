"""Trains a module in a test as a run does, without its folders, logs and progress."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset


def quiet_fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule | DataLoader | IterableDataset,
    last_step: int,
    checkpoint: Path | None = None,
    callbacks: Iterable[pl.Callback] = (),
) -> pl.Trainer:
    """The trainer after it trained up to optimizer step `last_step`, resumed from a checkpoint."""
    trainer = pl.Trainer(
        max_steps=last_step,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    source = "datamodule" if isinstance(data, pl.LightningDataModule) else "train_dataloaders"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, **{source: data}, ckpt_path=checkpoint, weights_only=True)
    return trainer
