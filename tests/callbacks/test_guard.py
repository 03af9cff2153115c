from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from erv_lightning.callbacks.guard import NonFiniteGuard
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import SFTModule, VerifierModule
from erv_lightning.rl.rollout import Sampling

MakeTrainer = Callable[..., L.Trainer]


class Faulty(VerifierModule):
    """A verifier whose loss or gradient goes wrong in the steps that a test names."""

    def __init__(self, loss: dict[int, float] | None = None, gradient: dict[int, float] | None = None) -> None:
        super().__init__(lr=1e-3, schedule="constant")
        self.bad_loss, self.bad_gradient = loss or {}, gradient or {}
        self.history: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.history.append({name: value.detach().clone() for name, value in self.named_parameters()})
        loss = super().training_step(batch, batch_idx)
        return loss + self.bad_loss[batch_idx] if batch_idx in self.bad_loss else loss

    def on_after_backward(self) -> None:
        step = len(self.history) - 1
        if step in self.bad_gradient:
            first = next(parameter for parameter in self.parameters() if parameter.grad is not None)
            assert first.grad is not None
            first.grad[0] = self.bad_gradient[step]

    def moved(self) -> list[bool]:
        """Whether the weights changed in each step but the last."""
        pairs = zip(self.history, self.history[1:], strict=False)
        return [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairs]


@pytest.fixture
def sentences(make_data: Callable[..., ClipDataModule]) -> ClipDataModule:
    return make_data(unit="sentences", batch_size=4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_its_batch_written_down(
    what: str, value: float, sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    guard = NonFiniteGuard(tmp_path / "bad")
    module = Faulty(**{what: {2: value}})
    trainer = make_trainer(max_steps=5, callbacks=[guard])
    with pytest.warns(UserWarning, match=r"step 2: .*not finite, step skipped, batch written to"):
        trainer.fit(module, sentences)
    assert module.moved() == [True, True, False, True]
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert (guard.skipped, guard.in_a_row) == (1, 0)
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1.0
    (path,) = (tmp_path / "bad").iterdir()
    written = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "step-000002.json"
    assert written["step"] == 2
    (batch,) = written["batches"]
    known = {sentence.text for sentence in sentences.sentences("train")}
    assert len(batch) == 4
    assert all(row["text"] in known and row["labels"] for row in batch)
    if what == "loss":
        assert written["losses"] == [repr(value)]
    else:
        assert len(written["parameters"]) == 1
        assert math.isfinite(float(written["losses"][0]))


def test_a_batch_of_clips_is_written_with_its_records(
    make_data: Callable[..., ClipDataModule], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = SFTModule(lambda: QwenOmniBackbone("tiny"), GrammarJudge(), evaluation=Sampling(3), warmup=0.0)
    seen: list[str] = []

    class Break(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            seen.extend(sample.id for sample in batch.samples)
            with torch.no_grad():
                module.backbone.model.lm_head.weight[5] = math.nan

    callbacks = [Break(), NonFiniteGuard(tmp_path)]
    with pytest.warns(UserWarning, match="step skipped"):
        make_trainer(max_steps=1, callbacks=callbacks).fit(module, make_data(batch_size=2))
    (batch,) = json.loads((tmp_path / "step-000000.json").read_text(encoding="utf-8"))["batches"]
    assert [sample["id"] for sample in batch] == seen
    assert all(sample["record"].startswith("built-in clip") and sample["clip"] for sample in batch)


@pytest.mark.filterwarnings("ignore:step .* skipped")
def test_every_batch_of_an_accumulated_step_is_written(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = Faulty(loss={4: math.nan})  # the second of three batches of the second step
    trainer = make_trainer(max_steps=3, accumulate_grad_batches=3, callbacks=[NonFiniteGuard(tmp_path)])
    trainer.fit(module, sentences)
    written = json.loads((tmp_path / "step-000001.json").read_text(encoding="utf-8"))
    assert [len(batch) for batch in written["batches"]] == [4, 4, 4]
    assert [math.isnan(float(loss)) for loss in written["losses"]] == [False, True, False]
    assert module.moved() == [False, False, True, False, False, False, False, False]


@pytest.mark.filterwarnings("ignore:step .* skipped")
def test_ten_in_a_row_stop_the_run_and_nine_do_not(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    ten = Faulty(gradient=dict.fromkeys(range(1, 40), math.nan))
    guard = NonFiniteGuard(tmp_path / "ten")
    with pytest.raises(FloatingPointError, match=r"10 steps in a row .* batches are in .*ten"):
        make_trainer(max_steps=30, callbacks=[guard]).fit(ten, sentences)
    assert len(ten.history) == 11
    assert len(list((tmp_path / "ten").iterdir())) == 10

    good = {4, 10}  # every other step is bad, never ten in a row
    guard = NonFiniteGuard(tmp_path / "nine")
    nine = Faulty(gradient={step: math.nan for step in range(14) if step not in good})
    make_trainer(max_steps=14, callbacks=[guard]).fit(nine, sentences)
    assert (guard.skipped, guard.in_a_row) == (12, 3)


@pytest.mark.filterwarnings("ignore:step .* skipped")
def test_the_counters_go_on_in_a_resumed_run(
    sentences: ClipDataModule, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=3, callbacks=[NonFiniteGuard(tmp_path / "bad")])
    trainer.fit(Faulty(gradient={1: math.nan, 2: math.nan}), sentences)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    guard = NonFiniteGuard(tmp_path / "bad")
    trainer = make_trainer(max_steps=4, callbacks=[guard])
    trainer.fit(Faulty(gradient={0: math.nan}), sentences, ckpt_path=str(tmp_path / "last.ckpt"))
    assert (guard.skipped, guard.in_a_row) == (3, 3)
