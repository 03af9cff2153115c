from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from erv_lightning.callbacks.interrupt import SaveOnInterrupt
from erv_lightning.callbacks.last import LastCheckpoint
from erv_lightning.callbacks.resume_state import ResumeState
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.modules import VerifierModule

MakeTrainer = Callable[..., L.Trainer]


class CtrlC(L.Callback):
    """Presses Ctrl-C at the start of a batch."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at, self.times = at, times
        self.started: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.started.append(batch_idx)
        for _ in range(self.times if batch_idx == self.at else 0):
            os.kill(os.getpid(), signal.SIGINT)


def saving(folder: Path) -> tuple[ResumeState, SaveOnInterrupt, LastCheckpoint]:
    """What a run has, in its order."""
    last = LastCheckpoint(folder / "last.ckpt")
    return ResumeState(folder), SaveOnInterrupt(last), last


@pytest.fixture
def sentences(make_data: Callable[..., ClipDataModule]) -> ClipDataModule:
    return make_data(unit="sentences", batch_size=4)


def test_ctrl_c_lets_the_step_finish_saves_and_the_run_can_go_on(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    press, (state, save, last) = CtrlC(at=2), saving(tmp_path)
    module = VerifierModule()
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, enable_checkpointing=True, callbacks=[state, save, press, last]).fit(
            module, sentences
        )
    assert press.started == [0, 1, 2]
    assert save.interrupted
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3  # the step in which it was pressed is in there
    for name, value in saved["state_dict"].items():
        assert torch.equal(value, module.state_dict()[name])

    again = CtrlC(at=-1)
    trainer = make_trainer(max_steps=5, enable_checkpointing=True, callbacks=[again, *saving(tmp_path / "again")])
    trainer.fit(VerifierModule(), sentences, ckpt_path=str(tmp_path / "last.ckpt"))
    assert trainer.global_step == 5
    assert len(again.started) == 2


def test_a_second_ctrl_c_stops_at_once(sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    callbacks = [*saving(tmp_path), CtrlC(at=2, times=2)]
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, enable_checkpointing=True, callbacks=callbacks).fit(VerifierModule(), sentences)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


class Fails(L.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            raise RuntimeError("on purpose")


def test_an_error_saves_too_and_is_the_users_to_see(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    state, save, last = saving(tmp_path)
    with pytest.raises(RuntimeError, match="on purpose"):
        make_trainer(max_steps=9, enable_checkpointing=True, callbacks=[state, save, Fails(at=3), last]).fit(
            VerifierModule(), sentences
        )
    assert not save.interrupted
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_before_the_first_step_there_is_nothing_to_save(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        make_trainer(enable_checkpointing=True, callbacks=[*saving(tmp_path), Fails(at=0)]).fit(
            VerifierModule(), sentences
        )
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_is_given_back_after_a_run(
    fails: bool, sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    callbacks = [*saving(tmp_path), Fails(at=1 if fails else -1)]
    try:
        make_trainer(max_steps=2, enable_checkpointing=True, callbacks=callbacks).fit(VerifierModule(), sentences)
    except RuntimeError:
        assert fails
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
