"""What the stages that train a policy share: the backbone, evaluation by generation, the optimiser, the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from erv_lightning.data.clips import ClipBatch
from erv_lightning.judges import Judge, judge_each
from erv_lightning.metrics import DatasetMetrics
from erv_lightning.models.backbone import Backbone
from erv_lightning.modules.optimisation import Schedule, adamw
from erv_lightning.parallel import gathered, offloads, shard
from erv_lightning.predictions import prediction
from erv_lightning.rl.rollout import Sampling, rollout

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule

EVALUATION_SEED = 0  # evaluation draws from its own generator: it neither disturbs training nor varies by step


class PolicyModule(L.LightningModule):
    """A policy that answers clips with an explanation and an emotion.

    Args:
        backbone: makes the multimodal model, when the trainer is ready for it.
        judge: names the emotion that an explanation conveys, for EEA, EPC and FCR. Never the reward's verifier.
        evaluation: how validation, test and prediction sample (the paper's: temperature 0.3, top_p 0.9).
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: fraction of all steps.
        schedule: of the learning rate.
        prefix_sharing: compute a prompt once for all its completions. False computes it for each, for a backbone that
            cannot take an attention plan; numbers are the same, and training is several times slower.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        judge: Judge,
        evaluation: Sampling,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        warmup: float,
        schedule: Schedule,
        prefix_sharing: bool = True,
    ) -> None:
        super().__init__()
        self.prefix_sharing = prefix_sharing
        self.make_backbone, self.judge, self.evaluation = backbone, judge, evaluation
        self.optimisation = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "schedule": schedule,
        }
        self.policy: Backbone | None = None
        self.rows: list[dict[str, Any]] = []
        self._silent: set[str] = set()
        self._evaluating = ExitStack()

    # -- building --------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the policy, once."""
        if self.policy is None:
            self.policy = self.make_backbone().train()  # from_pretrained gives it in evaluation mode
            # Adapter checkpoints leave out the frozen weights, which come from the pretrained folder.
            self.strict_loading = not self.policy.has_lora
            if self.device_mesh is not None:
                mesh, offload = self.device_mesh["data_parallel"], offloads(self.trainer.strategy)
                shard(self.policy, self.policy.units(), self.policy.ways_in, mesh, offload)
            if self.prefix_sharing and not self.policy.shares_prefixes:
                raise ValueError(
                    f"{type(self.policy).__name__} takes no attention plan, so its prompts cannot be shared: set "
                    "model.init_args.prefix_sharing: false"
                )

    @property
    def backbone(self) -> Backbone:
        """The policy. Raises RuntimeError before the trainer has built it."""
        if self.policy is None:
            raise RuntimeError("the policy is built by the trainer: call configure_model() first")
        return self.policy

    @property
    def data(self) -> ClipDataModule:
        """The trainer's data module."""
        return cast("ClipDataModule", self.trainer.datamodule)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Hands the prompt encoder to the data module and makes the metrics for its label spaces."""
        if self.data.unit != "clips":
            raise ValueError(f"data.unit is {self.data.unit!r}, but a policy needs 'clips'")
        self.configure_model()
        self.data.encoder = self.backbone
        if stage == "validate" or (stage == "fit" and self.trainer.limit_val_batches != 0):
            self.val_metrics = DatasetMetrics(self.data.label_spaces("val"), "val/")
        elif stage == "test":
            self.test_metrics = DatasetMetrics(self.data.label_spaces("test"), "test/")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what the backbone trains."""
        return adamw(self, self.backbone.trainable(), **self.optimisation)  # type: ignore[arg-type]

    # -- evaluation by generation ----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forgets the last evaluation's rows and starts the same random sequence again."""
        self.rows = []
        self._generator = torch.Generator(self.device).manual_seed(EVALUATION_SEED)

        # once for all batches: processes may have unequal numbers of them
        self._evaluating.enter_context(gathered(self.backbone))

    def on_validation_epoch_end(self) -> None:
        """Lets the gathered weights go."""
        self._evaluating.close()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Generates, judges and counts."""
        self._evaluate(batch, self.val_metrics, "val")

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Generates, judges and counts."""
        self._evaluate(batch, self.test_metrics, "test")

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Generates; rows in the layout of predictions.jsonl."""
        rows = self._respond(batch, "predict")
        self.rows += rows
        return rows

    def _evaluate(self, batch: ClipBatch, metrics: DatasetMetrics, stage: str) -> None:
        rows = self._respond(batch, stage)
        self.rows += rows
        ids = torch.tensor(
            [[row["answer_id"], row["judges"][self.judge.name], row["label_id"]] for row in rows],
            device=self.device,
            dtype=torch.long,
        ).view(-1, 3)
        metrics.update([row["dataset"] for row in rows], ids[:, 0], ids[:, 1], ids[:, 2])
        for place, collection in enumerate(metrics.collections()):
            self.log_dict(collection, prog_bar=place == 0, batch_size=max(1, len(rows)))

    def _respond(self, batch: ClipBatch, stage: str) -> list[dict[str, Any]]:
        self.count_flaws(batch, stage)
        if not batch.samples:  # none of its clips could be used
            return []
        embeds = self.backbone.embed(batch.prompts)
        drawn = rollout(
            self.backbone,
            embeds,
            batch.prompts,
            1,
            self.evaluation,
            self._generator,
            prefix_sharing=self.prefix_sharing,
        )
        texts = self.texts(drawn.token_ids, drawn.mask)
        rows = [prediction(sample, text) for sample, text in zip(batch.samples, texts, strict=True)]
        judged = judge_each(self.judge, [row["explanation"] for row in rows], [one.space for one in batch.samples])
        for row, label in zip(rows, judged, strict=True):
            row["judges"] = {self.judge.name: label}
        return rows

    def texts(self, token_ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """The text of each completion, from its real tokens."""
        pairs = zip(token_ids.tolist(), mask.sum(1).tolist(), strict=True)
        return [self.backbone.decode(row[:length]) for row, length in pairs]

    def count_flaws(self, batch: ClipBatch, stage: str) -> None:
        """Logs how many clips were heard as silence, warning of each once, and how many could not be used."""
        for sample in batch.silent:
            if sample not in self._silent:
                self._silent.add(sample)
                rank_zero_warn(f"clip of sample {sample!r} has no audio track: silence is heard instead")
        if stage == "predict":
            return
        found: dict[str, Sequence[Any]] = {"bad_clips": batch.bad}
        if stage == "train":
            found["clips_without_audio"] = batch.silent
        for name, those in found.items():  # 0 too: Lightning repeats the last value in every later step that logs none
            self.log(f"{stage}/{name}", float(len(those)), reduce_fx="sum", sync_dist=True, batch_size=1)

    # -- files -----------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # overloads
        """All weights, or the adapters alone where only they train (the rest is in the pretrained folder)."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        if self.policy is not None and self.policy.has_lora:
            state = {name: value for name, value in state.items() if "lora_" in name}
        return state

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face's layout."""
        self.backbone.save(folder)


def pad_rows(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pads token rows; returns (rows, width) ids and a bool mask of the real ones."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]
