"""How long training waits for its data."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Protocol, cast

import lightning as L


class _Timed(Protocol):
    decode_seconds: float


class DecodeClock(L.Callback):
    """Before each training batch sets `module.decode_seconds`: what passed since the one before had ended.

    That is the wait for the data workers, which decode clips, and the copy to the device; near 0 while the workers
    keep up. The first batch of an epoch includes what the start of its workers took. Validation and saving are not
    counted: the clock starts anew after them.
    """

    def __init__(self) -> None:
        self._since = perf_counter()

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Goes behind all other callbacks, so that what they do at the end of a batch or of validation is not counted.

        Lightning puts those that save checkpoints last, whatever the order they were given in.
        """
        # A new list: Lightning is walking along the old one.
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]  # type: ignore[attr-defined]

    def _start(self) -> None:
        self._since = perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Starts the clock."""
        self._start()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Reads the clock."""
        cast("_Timed", module).decode_seconds = perf_counter() - self._since

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Starts the clock."""
        self._start()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Starts the clock anew: validation runs between two training batches."""
        self._start()
