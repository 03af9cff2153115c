"""What Weights & Biases gets beside the numbers: rollouts to browse, confusion matrices, and one run after a resume.

Works on any `WandbLogger` among the trainer's loggers, online or offline, and does nothing without one. Lightning logs
the metrics, the command line the resolved config, and the logger itself uploads checkpoints (`log_model`).
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

from erv_lightning.data.media import ClipError, load_clip
from erv_lightning.data.sample import Sample
from erv_lightning.evaluation import Confusion
from erv_lightning.labels import get_label_space
from erv_lightning.modules.grpo import GRPOModule
from erv_lightning.modules.policy import PolicyModule
from erv_lightning.report.confusion import confusion_figure

if TYPE_CHECKING:
    import wandb

ID_FILE = "wandb_id.txt"
KEPT = 2048  # thumbnails in memory, some 10 kB each


def continue_wandb(loggers: Sequence[Logger], folder: Path) -> None:
    """Has the W&B logger of a resumed run go on with the W&B run that `WandbRollouts` noted in the run's folder.

    An id that the config or the environment (a sweep's agent) names is left as it is. To be called before the logger is
    first used.
    """
    file, chosen = folder / ID_FILE, _wandb(loggers)
    if chosen is None or chosen.version is not None or "WANDB_RUN_ID" in os.environ or not file.is_file():
        return
    if noted := file.read_text(encoding="utf-8").strip():
        # The constructor's `id`: the logger knows no other way, and the config must not hold it, or a second run made
        # from it would go on with this one.
        chosen._id = chosen._wandb_init["id"] = noted


def _wandb(loggers: Sequence[Logger]) -> WandbLogger | None:
    return next((one for one in loggers if isinstance(one, WandbLogger)), None)


class WandbRollouts(L.Callback):
    """Logs some completions of a rollout as rows of a table that grows, and a confusion matrix at each validation.

    The table is W&B's incremental one: each addition sends its own rows only. W&B's page shows the latest hundred
    additions; rollouts.jsonl has every completion.

    Args:
        every_n_steps: optimiser steps from one addition to the next.
        rows: completions of an addition, at most.
        thumbnails: show the middle frame of each clip. They show people, and online they leave this machine: False
            where the data set's licence does not allow that.
        pixels: of a thumbnail, height × width.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self, every_n_steps: int = 10, rows: int = 32, thumbnails: bool = True, pixels: int = 128 * 128
    ) -> None:
        limits = {"every_n_steps": every_n_steps, "rows": rows, "pixels": pixels}
        if wrong := [f"{name} is {value}, it must be at least 1" for name, value in limits.items() if value < 1]:
            raise ValueError(f"WandbRollouts: {'; '.join(wrong)}")
        self.every_n_steps, self.rows, self.pixels = every_n_steps, rows, pixels
        self.thumbnails = thumbnails
        self._table: wandb.Table | None = None
        self._seen: OrderedDict[tuple[str, str], wandb.Image | None] = OrderedDict()
        self._samples: dict[tuple[str, str], Sample] = {}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Notes the W&B run's id, for `continue_wandb`."""
        logger = _wandb(trainer.loggers)
        if logger is not None and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ID_FILE).write_text(f"{logger.experiment.id}\n", encoding="utf-8")

    # -- rollouts --------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Adds rows where one of the rollout's optimiser steps is a multiple of `every_n_steps`."""
        logger = _wandb(trainer.loggers)
        if logger is None or not trainer.is_global_zero or not isinstance(module, GRPOModule) or not module.rollouts:
            return
        step = int(module.rollouts[0]["step"])
        if -step % self.every_n_steps >= trainer.global_step - step:
            return
        rows = module.rollouts[: self.rows]
        cells = [self._cells(row, module) for row in rows]
        if self._table is None:
            import wandb

            self._table = wandb.Table(columns=list(cells[0]), log_mode="INCREMENTAL")
        for one in cells:
            self._table.add_data(*one.values())
        logger.log_metrics({"rollouts": self._table}, step)

    def _cells(self, row: Mapping[str, Any], module: GRPOModule) -> dict[str, Any]:
        """A row of the table, by column."""
        names = get_label_space(row["label_space"]).names
        return {
            "step": row["step"],
            "clip": f"{row['dataset']}/{row['id']}",
            **({"thumbnail": self._thumbnail(row, module)} if self.thumbnails else {}),
            "label": row["label"],
            "answer": row["answer"],
            "response": row.get("response", row["explanation"]),
            "reward": row["reward"],
            "advantage": row["advantage"],
            **{f"reward {name}": value for name, value in row["rewards"].items()},
            **{f"judge {name}": names[label] if label >= 0 else "" for name, label in row["judges"].items()},
            "tokens": row["tokens"],
            "truncated": row["truncated"],
        }

    def _thumbnail(self, row: Mapping[str, Any], module: GRPOModule) -> wandb.Image | None:
        """The middle frame of a row's clip, decoded once; None where there is none to be had."""
        key = (row["dataset"], row["id"])
        if key not in self._seen:
            self._seen[key] = self._decode(key, module)
            if len(self._seen) > KEPT:
                self._seen.popitem(last=False)
        return self._seen[key]

    def _decode(self, key: tuple[str, str], module: GRPOModule) -> wandb.Image | None:
        import wandb

        data = module.data
        if not self._samples:
            self._samples = {(sample.dataset, sample.id): sample for sample in data.samples("train")}
        media = replace(
            data.rules.media, num_frames=1, fps=None, frame_size=None, max_pixels=self.pixels, video=True, audio=False
        )
        try:
            clip, _ = data.source.media(self._samples[key])
            frames = load_clip(clip, media).frames
        except (ClipError, OSError):
            return None
        return None if frames is None else wandb.Image(frames[0].permute(1, 2, 0).numpy(), file_type="jpg")

    # -- figures ---------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draws true labels against answers, and against what the judge read, of all processes' clips."""
        logger = _wandb(trainer.loggers)
        if logger is None or trainer.sanity_checking or not isinstance(module, PolicyModule):
            return
        for confusion in confusions(module, trainer):  # every process: their counts are added up
            if trainer.is_global_zero:
                logger.log_metrics({f"val/confusion/{confusion.space}": _image(confusion)}, trainer.global_step)


def confusions(module: PolicyModule, trainer: L.Trainer) -> list[Confusion]:
    """Counts of the validation's rows, one for each label space; the same on all processes."""
    found = []
    for space in {space.name: space for space in module.data.label_spaces("val").values()}.values():
        counts = torch.zeros(2, len(space.names), len(space.names) + 1, dtype=torch.long)
        for row in module.rows:
            if get_label_space(row["label_space"]).name == space.name and row["label_id"] >= 0:
                for place, said in enumerate((row["answer_id"], row["judges"][module.judge.name])):
                    counts[place, row["label_id"], said] += 1  # −1, no label, is the last column
        total = trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")
        answers, explanations = cast("Tensor", total).cpu().numpy().astype(np.intp)
        found.append(Confusion(space.name, space.names, answers, {module.judge.name: explanations}))
    return found


def _image(confusion: Confusion) -> wandb.Image:
    import wandb
    from PIL import Image

    file = io.BytesIO()
    confusion_figure(confusion).savefig(file, format="png", dpi=110)
    return wandb.Image(Image.open(file))
