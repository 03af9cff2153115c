"""Two real processes on the CPU: training ends, and measuring counts every clip exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fixtures import TEST_CLIPS, TINY, Checkout, losses, read_jsonl

pytest_plugins = ("cli_fixtures",)

TWO = ("-c", "configs/trainer/ddp_cpu.yaml")


@pytest.fixture(scope="module")
def sft(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with an SFT policy that two processes have trained and tested."""
    runs = tmp_path_factory.mktemp("two") / "runs"
    for verb in ("fit", "test"):
        outcome = checkout.run_apart(verb, "-c", "configs/sft.yaml", *TINY, *TWO, "--runs", runs, timeout=120)
        assert outcome.status == 0, outcome.err
    return runs / "sft" / "default"


def test_two_processes_train_one_policy(sft: Path) -> None:
    assert len(losses(sft)) == 4
    assert (sft / "checkpoints" / "best.ckpt").is_file()
    assert (sft / "export" / "model.safetensors").is_file()
    assert not sft.with_name("default.1").exists()  # the second process did not move the first one's run aside


def test_two_processes_count_every_clip_once(sft: Path) -> None:
    assert TEST_CLIPS % 2 == 1
    rows = read_jsonl(sft / "predictions.jsonl")
    summary = json.loads((sft / "summary.json").read_text())

    assert [row["id"] for row in rows] == [f"test-{index:04d}" for index in range(TEST_CLIPS)]
    right = sum(row["answer_id"] == row["label_id"] for row in rows)
    told = sum(row["judges"]["grammar"] == row["label_id"] for row in rows)
    assert summary["test/war"] == pytest.approx(right / TEST_CLIPS, abs=1e-6)
    assert summary["test/eea"] == pytest.approx(told / TEST_CLIPS, abs=1e-6)


def test_two_processes_take_grpo_steps(trained: Checkout) -> None:
    words = ("fit", "-c", "configs/grpo.yaml", *TINY, *TWO, "--name", "two", "--trainer.max_steps", "2")
    outcome = trained.run_apart(*words, timeout=120)

    run = trained.folder / "runs" / "grpo" / "two"
    assert outcome.status == 0, outcome.err
    assert len(losses(run)) == 2
    assert len(read_jsonl(run / "rollouts.jsonl")) == 2 * 2 * 8  # the first process's half of 4 prompts
    assert (run / "export" / "model.safetensors").is_file()
