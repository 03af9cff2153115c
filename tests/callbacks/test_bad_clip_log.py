"""Clips that could not be used are named once: in the log, in bad_clips.jsonl, and counted."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from erv_lightning.callbacks.bad_clips import BadClipLog
from erv_lightning.data.clips import BadClip
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import GRPOModule, SFTModule


@pytest.fixture
def broken(clips: SyntheticClips, listed: Any) -> Any:
    train, val = clips.samples("train")[:8], clips.samples("val")
    train[3] = dataclasses.replace(train[3], clip="gone.mp4")
    val[5] = dataclasses.replace(val[5], clip="gone too.mp4")
    return listed(train=train, val=val)


class Counts(L.Callback):
    """The counts of each training step."""

    def __init__(self) -> None:
        self.train: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.train.append(float(trainer.callback_metrics["train/bad_clips"]))


def test_training_goes_on_without_them_and_says_so_once(
    broken: Any,
    tmp_path: Path,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    module, counts = SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge()), Counts()
    path = tmp_path / "run" / "bad_clips.jsonl"
    trainer = make_trainer(max_epochs=3, limit_val_batches=1.0, callbacks=[BadClipLog(path), counts])
    with caplog.at_level(logging.WARNING, "lightning.pytorch"):
        trainer.fit(module, make_data(source=broken, on_bad_clip="skip"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["train-0003", "val-0005"]
    assert "'gone too.mp4'" in rows[1]["reason"]
    assert [record.getMessage().count("left out: ") for record in caplog.records].count(1) == 2
    assert trainer.global_step == 6  # 8 clips in batches of 4, three times
    assert sum(counts.train) >= 3
    assert trainer.callback_metrics["val/bad_clips"] == 1
    assert len(module.rows) == 6


def test_grpo_goes_on_without_them_too(
    broken: Any,
    rl_data: Callable[..., ClipDataModule],
    make_grpo: Callable[..., GRPOModule],
    grpo_trainer: Callable[..., L.Trainer],
) -> None:
    counts = Counts()
    trainer = grpo_trainer(max_epochs=1, callbacks=[counts])
    trainer.fit(make_grpo(), rl_data(source=broken, train_split="train", on_bad_clip="skip"))
    assert sum(counts.train) >= 1
    assert trainer.global_step == 2


def _write(path: Path, ids: list[str]) -> None:
    for name in ids:
        BadClipLog(path).write([BadClip(name, "d", f"{name}.mp4", "", "it is broken — ja")])


def test_processes_that_meet_the_same_clips_write_each_once(tmp_path: Path) -> None:
    context, ids = multiprocessing.get_context("fork"), [str(index) for index in range(30)]
    processes = [context.Process(target=_write, args=(tmp_path / "bad.jsonl", ids)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(ids)
