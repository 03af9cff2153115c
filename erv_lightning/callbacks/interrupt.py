"""Ctrl-C ends a run between two steps, with a checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info


class SaveOnInterrupt(L.Callback):
    """The first Ctrl-C lets the step finish, saves and stops; the second stops at once. Errors save as well.

    Args:
        checkpoint: where to save.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.interrupted = False
        self._failed = False
        self._before: Any = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Takes over Ctrl-C."""
        self._before = signal.signal(signal.SIGINT, self._handle)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Gives Ctrl-C back."""
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Lightning puts this handler back after a failed run, past every hook: there is no step left to finish.
        if self.interrupted or self._failed:
            raise KeyboardInterrupt
        self.interrupted = True
        rank_zero_info("\nCtrl-C: finishing this step, then saving. Once more stops at once.")

    def _stop_if_asked(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Between two training steps."""
        if self.interrupted:  # Lightning would write the step's row to metrics.csv only after this hook
            trainer._logger_connector.update_train_step_metrics()
        self._stop_if_asked()

    def on_validation_batch_end(self, *args: Any) -> None:
        """Between two validation steps."""
        self._stop_if_asked()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Saves what there is.

        With several processes only after Ctrl-C, which reaches all of them: saving is collective, and an error of
        one process would wait for the others forever.
        """
        self.interrupted = self.interrupted or isinstance(exception, KeyboardInterrupt)
        together = trainer.world_size == 1 or self.interrupted
        if trainer.global_step > 0 and together and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.checkpoint)
            rank_zero_info(f"saved {self.checkpoint}; go on with --ckpt_path {self.checkpoint}")
        self._failed = True
