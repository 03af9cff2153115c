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


@pytest.fixture
def sentences(make_data: Callable[..., ClipDataModule]) -> ClipDataModule:
    return make_data(unit="sentences", batch_size=4)


def test_ctrl_c_lets_the_step_finish_saves_and_the_run_can_go_on(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    press, save = CtrlC(at=2), SaveOnInterrupt(tmp_path / "last.ckpt")
    module = VerifierModule()
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, callbacks=[press, save]).fit(module, sentences)
    assert press.started == [0, 1, 2]
    assert save.interrupted
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3  # the step in which it was pressed is in there
    for name, value in state["state_dict"].items():
        assert torch.equal(value, module.state_dict()[name])

    again = CtrlC(at=-1)
    trainer = make_trainer(max_steps=5, callbacks=[again, SaveOnInterrupt(tmp_path / "again.ckpt")])
    trainer.fit(VerifierModule(), sentences, ckpt_path=str(tmp_path / "last.ckpt"))
    assert trainer.global_step == 5
    assert len(again.started) == 2


def test_a_second_ctrl_c_stops_at_once(sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    callbacks = [CtrlC(at=2, times=2), SaveOnInterrupt(tmp_path / "last.ckpt")]
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, callbacks=callbacks).fit(VerifierModule(), sentences)
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
    save = SaveOnInterrupt(tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="on purpose"):
        make_trainer(max_steps=9, callbacks=[Fails(at=3), save]).fit(VerifierModule(), sentences)
    assert not save.interrupted
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_before_the_first_step_there_is_nothing_to_save(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        make_trainer(callbacks=[Fails(at=0), SaveOnInterrupt(tmp_path / "last.ckpt")]).fit(VerifierModule(), sentences)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_is_given_back_after_a_run(
    fails: bool, sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    callbacks = [Fails(at=1 if fails else -1), SaveOnInterrupt(tmp_path / "last.ckpt")]
    try:
        make_trainer(max_steps=2, callbacks=callbacks).fit(VerifierModule(), sentences)
    except RuntimeError:
        assert fails
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
