"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info

from erv_lightning.callbacks.last import LastCheckpoint

NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}  # others by their number


class SaveOnInterrupt(L.Callback):
    """The first Ctrl-C or SIGTERM lets the step finish, saves and stops; the second stops at once. Errors save too.

    SIGTERM is how schedulers and sweeps end a run. Of several processes that train, it is enough that one hears it.
    Under SLURM with automatic requeueing, its warning signal does so too and puts the job into the queue again.

    Args:
        last: saves the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._requeues: int | None = None  # the signal after which SLURM is to start the job again
        self._agreed = False  # all processes stop at the same moment
        self._failed = False
        self._steps_before: int | None = None  # the batch under way; None between two

    @property
    def interrupted(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return self.signal is not None

    # -- hearing -------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Takes over Ctrl-C."""
        self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Takes over SIGTERM, once Lightning has: its own handlers act in the middle of a step, on each process apart.

        SLURM's signal before a job's time is up likewise; the SIGTERM that follows it is then left alone.
        """
        environment = trainer._accelerator_connector.cluster_environment
        number: int = signal.SIGTERM
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeues = number = environment.requeue_signal or signal.SIGUSR1
        if number not in self._handlers:
            self._handlers[number] = signal.signal(number, self._handle)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Lightning puts this handler back after a failed run, past every hook: there is no step left to finish.
        if self.interrupted or self._failed:
            raise KeyboardInterrupt
        self.signal = signum
        rank_zero_info(
            f"\n{NAMES.get(signum, f'signal {signum}')}: finishing this step, then saving. Once more stops at once."
        )

    # -- stopping ------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two optimiser steps. An epoch's first batch is no place to go on from, unless it is the only one."""
        begins = batch_idx % trainer.accumulate_grad_batches == 0 and (
            batch_idx > 0 or trainer.num_training_batches == 1
        )
        self._steps_before = trainer.global_step if begins else -1
        if begins:
            self._stop_if_asked(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The batch is done."""
        self._steps_before = None

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before a validation, which the resumed run then does."""
        if not trainer.sanity_checking and not trainer.fit_loop._should_accumulate():
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Within a validation: one process alone, since several may have unequal numbers of batches."""
        if trainer.world_size == 1 and not trainer.sanity_checking and not trainer.fit_loop._should_accumulate():
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        """Stops all processes; all come here at the same moment."""
        if trainer.world_size > 1:
            own = torch.tensor(self.signal or 0, device=trainer.strategy.root_device)
            self.signal = int(trainer.strategy.reduce(own, reduce_op="max")) or None
        if self.interrupted:
            self._agreed = True
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Saves what there is.

        In the middle of a step only where this is the only process and no weight has moved in it: saving is collective,
        so the error of one process would wait for the others forever.
        """
        if isinstance(exception, KeyboardInterrupt) and not self.interrupted:
            self.signal = signal.SIGINT
        self._failed = True
        if trainer.global_step == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        unmoved = self._steps_before in (None, trainer.global_step)
        if (self._agreed or (trainer.world_size == 1 and unmoved)) and trainer.global_step != self.last.step:
            self.last.save(trainer)
        if self._agreed and self.signal == self._requeues and trainer.is_global_zero:
            job = _slurm_job()
            rank_zero_info(f"putting the job {job} into the queue again")
            subprocess.run(["scontrol", "requeue", job], check=False)
        if self.last.path.exists():
            rank_zero_info(f"saved {self.last.path}, step {self.last.step}; go on with --ckpt_path last")


def _slurm_job() -> str:
    """The job as `scontrol` names it; one of an array by its place there."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
