"""Writes the best model in Hugging Face's layout when training ends."""

from __future__ import annotations

import shutil
from typing import cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from erv_lightning.modules.grpo import GRPOModule
from erv_lightning.modules.sft import SFTModule
from erv_lightning.modules.verifier import VerifierModule
from erv_lightning.runs import RunFolder


class ExportBest(L.Callback):
    """Loads the best checkpoint's weights at the end of training and writes `export/`, all or nothing."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Exports on the first process."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.run.best.is_file():
            state = torch.load(self.run.best, map_location="cpu", weights_only=True)["state_dict"]
            module.load_state_dict(state, strict=module.strict_loading)
        unfinished = self.run.export.with_name("export.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        cast("SFTModule | GRPOModule | VerifierModule", module).export(unfinished)
        shutil.rmtree(self.run.export, ignore_errors=True)
        unfinished.rename(self.run.export)
        rank_zero_info(f"model: {self.run.export}")
