"""Stage 2: teach a text classifier which emotions a sentence conveys.

Shapes: B sentences of a batch, K labels of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelF1Score

from erv_lightning.data.datamodule import Sentence, SentenceBatch
from erv_lightning.models.tiny import TINY
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.optimisation import Schedule, adamw
from erv_lightning.modules.verifier_losses import Task, balanced_weights, distillation_loss, verifier_loss
from erv_lightning.parallel import blocks, offloads, shard
from erv_lightning.stats.calibration import Link, fit_calibration
from erv_lightning.stats.resampling import Floats

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule

ClassWeights = Literal["none", "balanced"]

PROBLEM_TYPES: dict[Task, str] = {
    "multi_label": "multi_label_classification",
    "single_label": "single_label_classification",
}
"""What transformers calls the tasks."""


class VerifierModule(L.LightningModule):
    """Classification of sentences, by default multi-label with binary cross-entropy (method.md, stage 2).

    Args:
        pretrained: a folder or hub id of a sequence classifier, or of an encoder, which gets an output for each label
            of the data; or ``tiny`` for the built-in small one.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: fraction of all steps.
        schedule: of the learning rate.
        seed: of the weights of ``tiny``, and of an encoder's new outputs.
        task: ``multi_label``: a sigmoid and binary cross-entropy for each label. ``single_label``: a softmax and
            cross-entropy over the labels; a sentence with several is spread over them, one with none is left out of
            loss and F1. The exported config's ``problem_type`` says which it was.
        class_weights: ``balanced`` makes rare labels count as much as frequent ones; see `balanced_weights`.
        focal_gamma: γ of the focal loss, which makes easy sentences count less; 0: not at all. See `verifier_loss`.
        distill: how much of the loss, in [0, 1], is the distance from a teacher's probabilities instead of from the
            labels; see `distillation_loss`. Sentences without such probabilities count in the other part alone.
        distill_temperature: that flattens teacher and student alike, above 0.

    Raises:
        ValueError: an option out of range.
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
        task: Task = "multi_label",
        class_weights: ClassWeights = "none",
        focal_gamma: float = 0.0,
        distill: float = 0.0,
        distill_temperature: float = 2.0,
    ) -> None:
        super().__init__()
        wrong = [
            f"{name} is {value!r}: it must be one of {', '.join(get_args(known))}"
            for name, value, known in (("task", task, Task), ("class_weights", class_weights, ClassWeights))
            if value not in get_args(known)
        ]
        if not 0 <= focal_gamma < float("inf"):
            wrong.append(f"focal_gamma is {focal_gamma}: it must be at least 0")
        if not 0 <= distill <= 1:
            wrong.append(f"distill is {distill}: it must be between 0 and 1")
        if not 0 < distill_temperature < float("inf"):
            wrong.append(f"distill_temperature is {distill_temperature}: it must be above 0")
        if wrong:
            raise ValueError("; ".join(f"model.{one}" for one in wrong))
        self.task, self.class_weights, self.focal_gamma = task, class_weights, focal_gamma
        self.distill, self.distill_temperature = distill, distill_temperature
        self.weights: Tensor | None = None  # (2, K)
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
                self.verifier = EmotionVerifier.from_pretrained(self.pretrained, self.space.names, self.seed)
            self.verifier.train()  # from_pretrained gives it in evaluation mode
            if self.device_mesh is not None:
                mesh, offload = self.device_mesh["data_parallel"], offloads(self.trainer.strategy)
                shard(self.verifier, blocks(self.verifier.model), (), mesh, offload)
        self.outputs = self.verifier.output_index(self.space)
        self.verifier.say_task(PROBLEM_TYPES[self.task], self.outputs)
        if self.class_weights == "balanced" and stage == "fit":
            self.weights = balanced_weights(self._targets(data.sentences("train")), self.task)
        if self.distill and stage == "fit" and not any(one.probs for one in data.sentences("train")):
            raise ValueError(
                "model.init_args.distill needs teacher probabilities, and no training sentence has any: have them "
                "made, `python -m erv_lightning verifier build-data --help`, or set it to 0"
            )
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
        return logits, self._targets(batch.sentences).to(logits)

    def _targets(self, sentences: Sequence[Sentence]) -> Tensor:
        """(sentences, K), 1 for the labels of each."""
        targets = torch.zeros(len(sentences), len(self.space.names))
        for row, sentence in enumerate(sentences):
            targets[row, [self.space.id(label) for label in sentence.labels]] = 1.0
        return targets

    def training_step(self, batch: SentenceBatch, batch_idx: int) -> Tensor:
        """The task's cross-entropy over the label space."""
        logits, targets = self._logits_and_targets(batch)
        loss = verifier_loss(logits, targets, self.task, weights=self.weights, gamma=self.focal_gamma)
        if self.distill:
            loss = self._distilled(loss, logits, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def _distilled(self, loss: Tensor, logits: Tensor, batch: SentenceBatch) -> Tensor:
        """The loss with the teacher's part in it."""
        rows = [row for row, sentence in enumerate(batch.sentences) if sentence.probs is not None]
        if not rows:
            return loss
        taught = torch.tensor([batch.sentences[row].probs for row in rows]).to(logits)
        distance = distillation_loss(logits[rows], taught, self.task, self.distill_temperature)
        self.log("train/distillation", distance, batch_size=len(rows))
        return (1 - self.distill) * loss + self.distill * distance

    def validation_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """F1 at probability 0.5, or of the likeliest label."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: SentenceBatch, batch_idx: int) -> None:
        """F1 at probability 0.5, or of the likeliest label."""
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: SentenceBatch, metrics: MetricCollection) -> None:
        logits, targets = self._logits_and_targets(batch)
        if self.task == "single_label":
            labelled = targets.sum(1) > 0
            said = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()
            metrics.update(said[labelled], targets[labelled].int())
        else:
            metrics.update(logits.sigmoid(), targets.int())
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over all weights."""
        return adamw(self, self.parameters(), **self.optimisation)  # type: ignore[arg-type]

    @property
    def link(self) -> Link:
        """How the task makes probabilities of logits."""
        return "softmax" if self.task == "single_label" else "sigmoid"

    def scored(self, sentences: Sequence[Sentence], verifier: EmotionVerifier | None = None) -> tuple[Floats, Floats]:
        """Logits and targets of sentences, (sentences, K) each, by this classifier or another one of its outputs."""
        verifier = verifier or self.verifier
        assert verifier is not None
        logits = verifier.logits([sentence.text for sentence in sentences])[:, self.outputs]
        return logits.double().numpy(), self._targets(sentences).double().numpy()

    def calibrate(self, verifier: EmotionVerifier) -> None:
        """Notes in a classifier's config what suits the validation sentences; without any, nothing.

        It applies where calibrated probabilities are asked for, see `EmotionVerifier.calibrate`.
        """
        data = cast("ClipDataModule", self.trainer.datamodule)  # type: ignore[attr-defined]
        training = verifier.training
        try:
            logits, targets = self.scored(data.sentences("val"), verifier.eval())
            temperature, thresholds = fit_calibration(logits, targets, self.link)
        except ValueError as error:
            rank_zero_info(f"the verifier is not calibrated: {error}")
            return
        finally:
            verifier.train(training)
        names = [verifier.labels[output] for output in self.outputs]
        verifier.calibrate(temperature, dict(zip(names, thresholds.tolist(), strict=True)))

    def export(self, folder: Path) -> None:
        """Writes the classifier in Hugging Face's layout, calibrated on the validation sentences."""
        assert self.verifier is not None
        self.calibrate(self.verifier)
        self.verifier.save(folder)
