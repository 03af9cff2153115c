"""A run that was killed and resumed equals one that was never stopped, to the last bit."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_fixtures import FEW, Checkout, Process, read_csv, read_jsonl
from safetensors.torch import load_file

pytest_plugins = ("cli_fixtures",)

STEPS = 12
RUN = f"""\
max_new_tokens: 16
trainer:
  accelerator: cpu
  max_steps: {STEPS}
  max_epochs: -1
  val_check_interval: 3
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
"""
SPEED = re.compile(r"timing_s|step_time|throughput|perf/|memory")  # what differs from run to run


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "trainer" / "run.yaml"
    path.parent.mkdir()
    path.write_text(RUN)
    return path


def words(stage: str, overlay: Path, runs: Path, processes: int) -> tuple[Any, ...]:
    several = ("-c", "configs/trainer/ddp_cpu.yaml") if processes > 1 else ()
    more = {
        # adapters with dropout draw random numbers in every step
        "grpo": (
            "--model.init_args.backbone.init_args.lora.rank=4",
            "--model.init_args.backbone.init_args.lora.dropout=0.1",
            "--prompts_per_step=4",
            "--model.init_args.generations_per_prompt=3",
            "--model.init_args.resample_groups=1",
            "--model.init_args.updates_per_rollout=2",
        ),
        "sft": ("--accumulate=2",),
        "verifier": (),
    }[stage]
    return (
        "fit",
        "-c",
        f"configs/{stage}.yaml",
        *FEW,
        "-c",
        overlay,
        *several,
        *more,
        "--runs",
        runs,
        "--name",
        "killed",
    )


def numbers(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what measures speed."""
    rows = read_csv(run / "metrics.csv")
    return [{key: value for key, value in row.items() if value and not SPEED.search(key)} for row in rows]


def rollouts(run: Path) -> list[dict[str, Any]]:
    path = run / "rollouts.jsonl"
    return read_jsonl(path) if path.is_file() else []


def kill_at(process: Process, run: Path, steps: int) -> None:
    """SIGKILL, which nothing can prepare for, to all processes of the run once so many steps are logged."""
    process.wait_for_steps(run / "metrics.csv", steps, timeout=150)
    os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()


def same_run(a: Path, b: Path) -> None:
    assert numbers(a) == numbers(b)
    assert rollouts(a) == rollouts(b)
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (a, b))
    assert one["global_step"] == other["global_step"] == STEPS
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    exported, again = (load_file(run / "export" / "model.safetensors") for run in (a, b))
    assert exported.keys() == again.keys()
    for name, value in exported.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", ["sft", "verifier", "grpo"])
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(
    trained: Checkout, overlay: Path, tmp_path: Path, stage: str, processes: int
) -> None:
    if stage == "grpo":  # it builds on these
        for other in ("sft", "verifier"):
            for runs in ("whole", "parts"):
                (tmp_path / runs / other).mkdir(parents=True)
                (tmp_path / runs / other / "default").symlink_to(trained.folder / "runs" / other / "default")
    whole, parts = (tmp_path / runs / stage / "killed" for runs in ("whole", "parts"))
    outcome = trained.run_apart(*words(stage, overlay, tmp_path / "whole", processes), timeout=240)
    assert outcome.status == 0, outcome.err

    again = words(stage, overlay, tmp_path / "parts", processes)
    batches = STEPS // 2 if stage == "grpo" else STEPS  # two updates each
    at = random.randint(batches // 3 + 1, batches - 1)
    with trained.start(*again) as process:
        kill_at(process, parts, at)
    assert (parts / "checkpoints" / "last.ckpt").is_file()
    assert not (parts / "export").exists()
    outcome = trained.run_apart(*again, "--ckpt_path", "last", timeout=240)
    assert outcome.status == 0, f"killed at step {at}: {outcome.err}"
    same_run(whole, parts)
