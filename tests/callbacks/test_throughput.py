from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from erv_lightning.callbacks import throughput
from erv_lightning.callbacks.throughput import DecodeClock

MakeTrainer = Callable[..., L.Trainer]


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", clock)
    return clock


class Slow(IterableDataset[int]):
    """Decoding batch i takes i + 1 seconds."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock, self.count = clock, count

    def __len__(self) -> int:  # without it Lightning reads one batch ahead
        return self.count

    def __iter__(self) -> Iterator[int]:
        for index in range(self.count):
            self.clock.now += index + 1
            yield index


class Steps(L.LightningModule):
    """Each step takes 100 seconds, and each validation 1000."""

    decode_seconds: float

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.weight = clock, torch.nn.Parameter(torch.ones(()))
        self.waited: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.waited.append(self.decode_seconds)
        self.clock.now += 100
        return self.weight * 1.0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.clock.now += 1000
        self.log("val/score", self.clock.now, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SlowCheckpoint(ModelCheckpoint):
    """Saving takes 10,000 seconds. Lightning calls it after all callbacks that save nothing."""

    clock: Clock

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.clock.now += 10_000


class SlowLog(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args: Any) -> None:
        self.clock.now += 100_000

    def on_train_epoch_end(self, *args: Any) -> None:
        self.clock.now += 1_000_000


def test_only_the_wait_for_data_is_counted(clock: Clock, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = Steps(clock)
    every_batch = SlowCheckpoint(tmp_path / "steps", every_n_train_steps=1, save_top_k=-1)
    every_validation = SlowCheckpoint(tmp_path / "best", monitor="val/score", mode="max")
    every_batch.clock = every_validation.clock = clock
    trainer = make_trainer(
        max_epochs=2,
        val_check_interval=2,
        limit_val_batches=1,
        num_sanity_val_steps=1,
        enable_checkpointing=True,
        callbacks=[DecodeClock(), SlowLog(clock), every_batch, every_validation],
    )
    trainer.fit(module, DataLoader(Slow(clock, 4), batch_size=None), DataLoader([0], batch_size=None))  # type: ignore[arg-type]
    assert module.waited == [1.0, 2.0, 3.0, 4.0] * 2
    assert len(list((tmp_path / "steps").iterdir())) == 8  # they were saved
    assert any((tmp_path / "best").iterdir())
    assert isinstance(trainer.callbacks[-1], DecodeClock)  # type: ignore[attr-defined]
    assert len(trainer.callbacks) == 4  # type: ignore[attr-defined]
