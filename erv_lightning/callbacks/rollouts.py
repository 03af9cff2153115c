"""Appends every GRPO completion, its rewards and its advantage to rollouts.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from erv_lightning.modules.grpo import GRPOModule


class RolloutLog(L.Callback):
    """One line a completion, written after each training batch. With several processes, the first one's.

    Args:
        path: the JSONL file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Appends the step's rows."""
        if not isinstance(module, GRPOModule) or not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in module.rollouts)
