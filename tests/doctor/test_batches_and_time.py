"""Batch arithmetic and seconds, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erv_lightning.doctor.batches import Counts, problems, work_out
from erv_lightning.doctor.memory import Plan, Shape
from erv_lightning.doctor.sizes import Sizes, Tower
from erv_lightning.doctor.time import Assumptions, Device, forward, row_work, seconds, traffic

GRPO = Counts("grpo", ranks=2, batch=8, train=420, val=70, group=8, micro=2, updates=2, max_steps=120, val_every=20)
TOWER = Tower(1, 1, 1, 4, 0, False)
SIZES = Sizes("x", 2, 3, 1, 1, 2, 4, 11, 7, 5, 22, 43, 10, 4, 0, True, TOWER, TOWER, "by hand")
SLOW = Device("slow", operations=100.0, bandwidth=10.0, memory=1.0, link=1.0)
ALL = Assumptions(compute=1.0, bandwidth=1.0, link=1.0)


def test_a_grpo_run_by_hand() -> None:
    found = work_out(GRPO)
    assert (found.samples_per_batch, found.per_rank, found.micro_batches) == (8, 4, 2)
    assert (found.completions_per_batch, found.completions_per_rank) == (64, 32)
    assert (found.batches_per_epoch, found.steps_per_epoch) == (52, 104)  # 420 // 8, two updates each
    assert (found.steps, found.batches, found.validations) == (120, 60, 3)
    assert found.epochs == pytest.approx(60 / 52)
    assert found.val_batches == 2  # 70 over 2 × 32
    assert found.completions_total == 60 * 64 + 3 * 70


def test_an_sft_run_by_hand() -> None:
    counts = Counts("sft", ranks=4, batch=4, train=100, val=9, accumulate=4, max_epochs=7, val_epochs=2, eval_batch=2)
    found = work_out(counts)
    assert (found.samples_per_batch, found.batches_per_epoch) == (16, 6)
    assert (found.steps_per_epoch, found.steps, found.validations) == (2, 14, 4)  # 14 steps of 4 batches, 9.3 epochs
    assert found.val_batches == 2


def test_what_cannot_be_shared_or_filled_is_said() -> None:
    (line,) = problems(replace(GRPO, ranks=3))
    assert "--prompts_per_step 9" in line
    (line,) = problems(replace(GRPO, train=5))
    assert "5 samples, fewer than one batch of 8" in line
    assert problems(GRPO) == []


def test_operations_by_hand() -> None:
    # 3 layers of 5 weights for 4 tokens, the head's 22 for 2 of them; 6 pairs of width 2 in 3 layers
    assert forward(SIZES, 4, 6, 2) == 2 * (60 + 44) + 4 * 2 * 3 * 6
    shape = Shape(prompts=1, group=2, prompt=3, new_tokens=2, micro=1)
    # one row: 3 prompt tokens, one more of each completion, which sees the prompt and itself; 4 tokens scored
    assert row_work(SIZES, shape, Plan()) == forward(SIZES, 5, 6 + 2 * 4, 4)
    assert row_work(SIZES, shape, Plan(prefix_sharing=False)) == forward(SIZES, 8, 12 + 2 * 4, 4)


def test_seconds_are_operations_and_bytes_over_the_limits() -> None:
    shape = Shape(prompts=1, group=2, prompt=3, new_tokens=2, micro=1)
    found = seconds(SIZES, shape, Plan(activation=2), SLOW, ALL)
    work = row_work(SIZES, shape, Plan())
    assert found["reference"] == pytest.approx(work / 100)
    assert found["update"] == pytest.approx(3 * work / 100)
    assert seconds(SIZES, shape, Plan(activation=2, checkpointing=True), SLOW, ALL)["update"] == pytest.approx(
        4 * work / 100
    )
    assert "exchange" not in found


def test_bytes_between_devices_by_hand() -> None:
    shape = Shape(prompts=4, group=2, prompt=3, new_tokens=2, micro=2)
    assert traffic(SIZES, shape, Plan()) == 0
    assert traffic(SIZES, shape, Plan(devices=2, strategy="ddp")) == 2 * 10 * 4
    # weights for the rollout, two micro-batches of the reference and twice two of the update; gradients twice
    assert traffic(SIZES, shape, Plan(devices=2, strategy="fsdp")) == 43 * 4 * (1 + 2 + 4) + 2 * 10 * 4
