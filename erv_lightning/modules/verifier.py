"""Stage 2: teach a text classifier which emotions a sentence conveys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelF1Score

from erv_lightning.data.datamodule import SentenceBatch
from erv_lightning.models.tiny import TINY
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.optimisation import Schedule, adamw
from erv_lightning.parallel import FSDP2Strategy, blocks, shard

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule


class VerifierModule(L.LightningModule):
    """Multi-label classification of sentences with binary cross-entropy (method.md, stage 2).

    Args:
        pretrained: a folder or hub id of a sequence classifier, or ``tiny`` for the built-in small one.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: fraction of all steps.
        schedule: of the learning rate.
        seed: of the weights of ``tiny``.
    """

    def __init__(
        self,
        pretrained: str = TINY,
        lr: float = 3e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: Schedule = "linear",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.pretrained, self.seed = pretrained, seed
        self.optimisation = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "schedule": schedule,
        }
        self.verifier: EmotionVerifier | None = None

    def setup(self, stage: str) -> None:
        """Builds the classifier; the small one needs the training sentences for its tokenizer."""
        data = cast("ClipDataModule", self.trainer.datamodule)  # type: ignore[attr-defined]
        self.space = data.label_space
        if self.verifier is None:
            if self.pretrained == TINY:
                sentences = [sentence.text for sentence in data.sentences("train")]
                self.verifier = EmotionVerifier.tiny(sentences, self.space.names, self.seed)
            else:
                self.verifier = EmotionVerifier.from_pretrained(self.pretrained)
            self.verifier.train()  # from_pretrained gives it in evaluation mode
            if self.device_mesh is not None:
                offload = isinstance(self.trainer.strategy, FSDP2Strategy) and self.trainer.strategy.cpu_offload
                shard(self.verifier, blocks(self.verifier.model), (), self.device_mesh["data_parallel"], offload)
        self.outputs = self.verifier.output_index(self.space)
        count = len(self.space.names)
        f1 = {
            "f1_macro": MultilabelF1Score(count, average="macro"),
            "f1_micro": MultilabelF1Score(count, average="micro"),
        }
        self.val_metrics = MetricCollection(dict(f1), prefix="val/")
        self.test_metrics = self.val_metrics.clone(prefix="test/")

    def configure_model(self) -> None:
        """Nothing: `setup` has sharded the classifier where there is something to shard it over."""

    def _logits_and_targets(self, batch: SentenceBatch) -> tuple[Tensor, Tensor]:
        assert self.verifier is not None
        logits = self.verifier([sentence.text for sentence in batch.sentences])[:, self.outputs]
        targets = torch.zeros_like(logits)
        for row, sentence in enumerate(batch.sentences):
            targets[row, [self.space.id(label) for label in sentence.labels]] = 1.0
        return logits, targets

    def training_step(self, batch: SentenceBatch, batch_idx: int) -> Tensor:
        """Binary cross-entropy over the label space."""
        logits, targets = self._logits_and_targets(batch)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """F1 at probability 0.5."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """F1 at probability 0.5."""
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: SentenceBatch, metrics: MetricCollection) -> None:
        logits, targets = self._logits_and_targets(batch)
        metrics.update(logits.sigmoid(), targets.int())
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over all weights."""
        return adamw(self, self.parameters(), **self.optimisation)  # type: ignore[arg-type]

    def export(self, folder: Path) -> None:
        """Writes the classifier in Hugging Face's layout."""
        assert self.verifier is not None
        self.verifier.save(folder)
