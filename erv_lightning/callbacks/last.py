"""Keeps last.ckpt the newest state of a run."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Saves at every validation and at the end of training.

    `ModelCheckpoint(save_last=True)` beside a monitored metric saves only when that metric has improved.

    Args:
        path: the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(dirpath=path.parent, filename=path.stem, enable_version_counter=False)
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The steps after the last validation."""
        trainer.save_checkpoint(self.path)
