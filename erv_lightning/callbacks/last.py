"""Keeps last.ckpt the newest state of a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Saves at every validation, every so many minutes, and at the end of training, always between two optimiser steps.

    `ModelCheckpoint(save_last=True)` beside a monitored metric saves only when that metric has improved. A validation
    that falls among a step's accumulated batches is followed by a checkpoint when the step is taken: gradients are in
    no checkpoint, so one before it could not go on as if nothing had happened.

    Args:
        path: the checkpoint.
        minutes: the longest time between two checkpoints, but for the step under way.
    """

    def __init__(self, path: Path, minutes: float = 15) -> None:
        super().__init__(dirpath=path.parent, filename=path.stem, enable_version_counter=False)
        self.path, self.minutes = path, minutes
        self.step = 0  # whose state last.ckpt holds
        self._due = False
        self._saved_at = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """What is due is saved here, where the step before is done and logged; `ResumeState` hands back the batch."""
        if batch_idx == 0 or trainer.global_step == self.step or batch_idx % trainer.accumulate_grad_batches:
            return
        late = time.monotonic() - self._saved_at > 60 * self.minutes
        # one process's clock may be ahead: all save, or none
        if self._due or trainer.strategy.reduce_boolean_decision(late, all=False):
            self.save(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Before a run ends early (`trainer.max_time`), which Lightning counts as the end of the epoch."""
        if trainer.should_stop and trainer.global_step != self.step and not trainer.fit_loop._should_accumulate():
            trainer._logger_connector.update_train_step_metrics()  # else the step's row would come after the checkpoint
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """At once between two steps, else when the step is taken."""
        if self._should_skip_saving_checkpoint(trainer) or trainer.should_stop:
            return
        if trainer.fit_loop._should_accumulate():
            self._due = True
        else:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Nothing: validation and the end of training see to it."""

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The steps after the last validation."""
        if not trainer.should_stop or trainer.global_step != self.step:
            self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Nothing: `SaveOnInterrupt` sees to it."""

    def save(self, trainer: L.Trainer) -> None:
        """Saves now."""
        self._due, self._saved_at, self.step = False, time.monotonic(), trainer.global_step
        trainer.save_checkpoint(self.path, weights_only=False)  # all of the state
