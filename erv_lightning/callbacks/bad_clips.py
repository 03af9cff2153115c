"""Names clips that could not be used, each once: in the log and in bad_clips.jsonl."""

from __future__ import annotations

import fcntl
import json
import logging
from pathlib import Path
from typing import Any

import lightning as L

from erv_lightning.data.clips import BadClip, ClipBatch

log = logging.getLogger("lightning.pytorch")  # what the user sees


class BadClipLog(L.Callback):
    """With `data.on_bad_clip: skip`. Every process names the clips that it meets; none stands in the file twice.

    Args:
        path: the JSONL file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _note(self, batch: Any) -> None:
        if isinstance(batch, ClipBatch) and batch.bad:
            for one in self.write(batch.bad):
                log.warning(f"left out: {one.reason}")

    def write(self, bad: list[BadClip]) -> list[BadClip]:
        """Adds those that the file does not have; returns them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several processes
            file.seek(0)
            known = {(row["dataset"], row["id"]) for row in map(json.loads, file)}
            new = {(one.dataset, one.id): one for one in bad if (one.dataset, one.id) not in known}
            file.writelines(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in new.values())
        return list(new.values())

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *args: Any) -> None:
        """Names the batch's."""
        self._note(batch)

    def on_validation_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *args: Any) -> None:
        """Names the batch's."""
        self._note(batch)

    def on_test_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *args: Any) -> None:
        """Names the batch's."""
        self._note(batch)

    def on_predict_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *args: Any) -> None:
        """Names the batch's."""
        self._note(batch)
