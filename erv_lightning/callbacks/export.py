"""Writes the best model in Hugging Face's layout when training ends, with a card that says how it came about."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForSequenceClassification

from erv_lightning.checkpoints import WEIGHTS, load_weights, read_checkpoint
from erv_lightning.model_card import Weights, model_card
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.grpo import GRPOModule
from erv_lightning.modules.policy import PolicyModule
from erv_lightning.modules.sft import SFTModule
from erv_lightning.modules.verifier import VerifierModule
from erv_lightning.runs import RunFolder

Stage = SFTModule | GRPOModule | VerifierModule


def write_model(save: Callable[[Path], None], card: str, folder: Path) -> None:
    """Writes a model's folder, all or nothing: one of that name is replaced when the new one is complete.

    Args:
        save: writes the model into the folder that it is given.
        card: its README.md.
        folder: where.
    """
    unfinished, old = (folder.with_name(f".{folder.name}.{what}") for what in ("tmp", "old"))
    for left_over in (unfinished, old):
        shutil.rmtree(left_over, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        save(unfinished)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def renew_card(run: RunFolder) -> None:
    """Writes the card of a run's exported best model again, with what has been measured since. Without one, nothing."""
    card = run.export / "README.md"
    if card.is_file() and run.best.exists():
        weights = Weights.of(run.best, read_checkpoint(run.best, weights=False))
        card.write_text(model_card(run, weights), encoding="utf-8")


class ExportBest(L.Callback):
    """Loads the best checkpoint's weights at the end of training and writes `export/`, all or nothing.

    Without a best checkpoint the last weights are exported.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Exports on the first process."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        stage = cast("Stage", module)
        best = self.run.best if self.run.best.exists() else None
        spread = any(isinstance(part, FSDPModule) for part in module.modules())
        path = self.run.last if spread and best is None else best
        save: Callable[[Path], None] = stage.export
        if path is None:
            weights = Weights("the end of training", trainer.global_step)
        else:
            checkpoint = read_checkpoint(path)
            weights = Weights.of(path, checkpoint)
            if spread:
                save = whole(stage, checkpoint[WEIGHTS], path)
            else:
                load_weights(stage, checkpoint[WEIGHTS], path)
        write_model(save, model_card(self.run, weights), self.run.export)
        rank_zero_info(f"model: {self.run.export}")


def whole(module: Stage, weights: Mapping[str, Tensor], path: Path) -> Callable[[Path], None]:
    """What saves a module whose weights are spread over several processes: a copy in this one, from a checkpoint.

    Args:
        module: whose copy it is.
        weights: of the checkpoint.
        path: of the checkpoint, for errors.
    """
    if isinstance(module, PolicyModule):
        policy = module.make_backbone()
        names = [name for name in policy.state_dict() if "lora_" in name or not policy.has_lora]
        load_weights(policy, _below("policy", weights), path, names)
        return policy.save
    assert module.verifier is not None
    model = AutoModelForSequenceClassification.from_config(module.verifier.model.config)
    verifier = EmotionVerifier(model, module.verifier.tokenizer)
    load_weights(verifier, _below("verifier", weights), path)
    module.calibrate(verifier)
    return verifier.save


def _below(part: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a part under its own names."""
    return {name.removeprefix(f"{part}."): value for name, value in weights.items()}
