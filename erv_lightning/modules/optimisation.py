"""AdamW and a learning-rate schedule, the same way for every stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from transformers import get_scheduler

Schedule = Literal["cosine", "linear", "constant"]


def adamw(
    module: L.LightningModule,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup: float,
    schedule: Schedule,
    steps_per_batch: int = 1,
) -> OptimizerLRScheduler:
    """AdamW with linear warm-up over a fraction of all steps, then the schedule down to zero, per step.

    Args:
        module: whose trainer tells the number of optimiser steps.
        parameters: what to train.
        lr: peak learning rate.
        betas: decay of the first and second moment.
        weight_decay: decoupled weight decay.
        warmup: fraction of all steps, in [0, 1).
        schedule: what follows the warm-up.
        steps_per_batch: optimiser steps for each batch, where the module takes several.
    """
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, betas=betas, weight_decay=weight_decay)
    total = int(module.trainer.estimated_stepping_batches) * steps_per_batch
    if module.trainer.max_steps > 0:
        total = min(total, module.trainer.max_steps)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=round(warmup * total), num_training_steps=total)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
