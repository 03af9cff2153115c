"""Writes predictions.jsonl and summary.json after `test` and `predict`."""

from __future__ import annotations

import json
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info

from erv_lightning.callbacks.export import renew_card
from erv_lightning.modules.policy import PolicyModule
from erv_lightning.runs import RunFolder


class PredictionWriter(L.Callback):
    """Collects the rows of all processes and writes them in the order of the data."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """predictions.jsonl of a policy, and summary.json."""
        if isinstance(module, PolicyModule):
            self._write_rows(trainer, module)
        if trainer.is_global_zero:
            self.run.path.mkdir(parents=True, exist_ok=True)
            summary = {name: float(value) for name, value in trainer.callback_metrics.items()}
            (self.run.path / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
            renew_card(self.run)

    def on_predict_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """predictions.jsonl of a policy."""
        if isinstance(module, PolicyModule):
            self._write_rows(trainer, module)

    def _write_rows(self, trainer: L.Trainer, module: PolicyModule) -> None:
        shards: list[Any] = [module.rows]
        if trainer.world_size > 1:
            shards = [None] * trainer.world_size
            dist.all_gather_object(shards, module.rows)
        if not trainer.is_global_zero:
            return
        order = {(sample.dataset, sample.id): place for place, sample in enumerate(module.data.samples("test"))}
        rows = sorted((row for shard in shards for row in shard), key=lambda row: order[row["dataset"], row["id"]])
        self.run.path.mkdir(parents=True, exist_ok=True)
        path = self.run.predictions
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        rank_zero_info(f"predictions: {path}")
