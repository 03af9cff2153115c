"""Keeps a run alive through a step whose loss or gradient is not finite."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.datamodule import SentenceBatch
from erv_lightning.parallel import local


class NonFiniteGuard(L.Callback):
    """Skips optimiser steps with a NaN or infinite loss or gradient, counts them and writes down their batch.

    One process's bad step is skipped by all of them.

    Args:
        folder: where the batches go, `step-<n>.json`.
        patience: so many skipped steps in a row stop the run.

    Raises:
        FloatingPointError: after `patience` skipped steps in a row.
    """

    def __init__(self, folder: Path, patience: int = 10) -> None:
        self.folder, self.patience = folder, patience
        self.skipped = 0
        self.in_a_row = 0
        self._batches: list[
            ClipBatch | SentenceBatch
        ] = []  # since the last optimiser step: with accumulation any may be the culprit
        self._losses: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Counters survive a resume."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the batch."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches, self._losses = [], []
        self._batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
        """Remembers the loss."""
        self._losses.append(loss.detach())  # read with the gradients: no device sync here

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> None:
        """Takes the gradients away from a bad step: an optimiser without gradients does nothing."""
        named = [(name, p) for name, p in module.named_parameters() if p.grad is not None]
        if not named:
            return
        norms = torch.stack([local(p.grad.detach()).float().norm() for _, p in named])  # type: ignore[union-attr]
        finite = bool(norms.isfinite().all() & torch.stack(self._losses).isfinite().all())
        if trainer.strategy.reduce_boolean_decision(finite, all=True):  # a loss is one process's own
            self.in_a_row = 0
            return
        bad = [
            name for (name, _), norm in zip(named, norms.tolist(), strict=True) if norm != norm or norm == float("inf")
        ]
        for _, parameter in named:
            parameter.grad = None
        self.skipped += 1
        self.in_a_row += 1
        module.log("train/skipped_steps", float(self.skipped))
        if trainer.is_global_zero:
            path = self._dump(trainer.global_step, bad)
            rank_zero_warn(
                f"step {trainer.global_step}: loss or gradient not finite, step skipped, batch written to {path}"
            )
        if self.in_a_row >= self.patience:
            raise FloatingPointError(
                f"{self.in_a_row} steps in a row had a non-finite loss or gradient; their batches are in "
                f"{self.folder}. "
                "Usual causes: a learning rate too high (model.init_args.lr), float16, or a broken clip"
            )

    def _dump(self, step: int, parameters: list[str]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:06d}.json"
        batches = [
            [asdict(item) for item in (batch.samples if isinstance(batch, ClipBatch) else batch.sentences)]
            for batch in self._batches
        ]
        # repr: JSON has no NaN
        losses = [repr(float(loss)) for loss in self._losses]
        row = {"step": step, "losses": losses, "parameters": parameters, "batches": batches}
        path.write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")
        return path
