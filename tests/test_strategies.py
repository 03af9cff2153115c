"""DDP and FSDP2 over real processes train as one process does on the same global batch, and an error stops them all."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_fixtures import FEW, Checkout, Outcome, losses
from safetensors.torch import load_file

from erv_lightning.data.export import write_samples
from erv_lightning.data.readers import SyntheticClips

pytest_plugins = ("cli_fixtures",)

RUN = """\
max_new_tokens: 16
trainer:
  accelerator: cpu
  max_steps: 3
  max_epochs: -1
  limit_val_batches: 0
  enable_progress_bar: false
  enable_model_summary: false
"""
BATCH = 4  # of all processes together
BACKBONE = "--model.init_args.backbone.init_args"
LORA = (f"{BACKBONE}.lora.rank=4", f"{BACKBONE}.gradient_checkpointing=true")
GRPO = (
    f"--prompts_per_step={BATCH}",
    "--model.init_args.generations_per_prompt=3",
    "--model.init_args.micro_batch_prompts=1",
    "--model.init_args.updates_per_rollout=1",
)
CASES = {
    "sft": (),
    "sft lora": LORA,
    "verifier": (),
    "grpo lora": (*GRPO, *LORA),
    "grpo": GRPO,  # all weights train: the reference is a copy
    "grpo lora varied": (*GRPO, *LORA),  # prompts of unequal lengths, so that processes differ in them
}
STRATEGIES = {"ddp": "configs/trainer/ddp_cpu.yaml", "fsdp": "configs/trainer/fsdp_cpu.yaml"}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "trainer" / "run.yaml"
    path.parent.mkdir()
    path.write_text(RUN)
    return path


def fit(
    checkout: Checkout, overlay: Path, runs: Path, case: str, strategy: str = "", processes: int = 1, *more: str
) -> tuple[Path, Outcome]:
    stage = case.split()[0]
    several = (
        ("-c", STRATEGIES[strategy], f"--trainer.devices={processes}", "--trainer.inference_mode=false")
        if strategy
        else ()
    )
    wide = () if stage == "verifier" else (f"{BACKBONE}.dtype=float64",)
    batch = () if stage == "grpo" else (f"--batch_size={BATCH // processes}",)
    words: tuple[Any, ...] = (
        "fit",
        "-c",
        f"configs/{stage}.yaml",
        *FEW,
        "-c",
        overlay,
        *several,
        *CASES[case],
        *wide,
        *batch,
        *more,
    )
    if "varied" in case:
        words = (*words, "-c", varied(checkout, runs))
    name = f"{case}-{strategy}{processes}".replace(" ", "-")
    if stage == "grpo":  # it builds on these
        for other in ("sft", "verifier"):
            (runs / other).mkdir(parents=True, exist_ok=True)
            if not (runs / other / "default").exists():
                (runs / other / "default").symlink_to(checkout.folder / "runs" / other / "default")
    outcome = checkout.run_apart(*words, "--runs", runs, "--name", name, timeout=200)
    return runs / stage / name, outcome


def varied(checkout: Checkout, folder: Path) -> Path:
    """An overlay with the built-in clips under questions of one to forty words."""
    clips = SyntheticClips(root=str(checkout.folder / "data" / "synthetic"), train=28, rl=12, val=7, test=9)
    for split in ("rl", "val"):
        asked = [
            replace(sample, question=" ".join(["What is felt?"] * (1 + 7 * index % 13)))
            for index, sample in enumerate(clips.samples(split))
        ]
        write_samples(asked, folder / "varied" / f"{split}.jsonl")
    overlay = folder / "varied.yaml"
    overlay.write_text(
        "data:\n  source:\n    class_path: erv_lightning.data.readers.JsonlClips\n"
        f"    init_args: {{root: {folder / 'varied'}}}\n"
    )
    return overlay


@pytest.fixture(scope="module")
def alone(trained: Checkout, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each case in one process, run when first asked for."""

    class Runs(dict[str, Path]):
        def __missing__(self, case: str) -> Path:
            run, outcome = fit(trained, overlay, tmp_path_factory.mktemp("alone"), case)
            assert outcome.status == 0, outcome.err
            self[case] = run
            return run

    return Runs()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("case", "strategy", "processes"),
    [
        ("sft", "fsdp", 2),
        ("sft lora", "fsdp", 4),
        ("grpo lora varied", "fsdp", 2),
        ("grpo", "fsdp", 4),
        ("grpo lora", "ddp", 4),
    ],
)
def test_several_processes_train_as_one_does(
    trained: Checkout, overlay: Path, tmp_path: Path, alone: dict[str, Path], case: str, strategy: str, processes: int
) -> None:
    run, outcome = fit(trained, overlay, tmp_path, case, strategy, processes)
    assert outcome.status == 0, outcome.err

    same(alone[case], run, lora="lora" in case)


def same(a: Path, b: Path, lora: bool, close: float = 1e-6) -> None:
    """Losses, weights and exported models agree."""
    one, many = ([float(loss) for loss in losses(each)] for each in (a, b))
    assert len(many) == 3
    assert many == pytest.approx(one, rel=1e-5, abs=1e-6)
    expected, found = weights(a), weights(b)
    assert found.keys() == expected.keys()
    assert all(("lora_" in name) == lora for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=close, atol=close, msg=f"{name} differs")
    exported, again = (load_file(each / "export" / "model.safetensors") for each in (a, b))
    assert exported.keys() == again.keys()
    for name, value in exported.items():
        torch.testing.assert_close(again[name], value, rtol=close, atol=close)


@pytest.mark.timeout(300)
def test_the_verifier_trains_sharded_as_it_does_in_copies(trained: Checkout, overlay: Path, tmp_path: Path) -> None:
    # not as in one process: each draws its own dropout. In float32, where Adam makes much of what is but rounding
    runs = [fit(trained, overlay, tmp_path, "verifier", strategy, 2) for strategy in ("ddp", "fsdp")]
    assert [outcome.status for _, outcome in runs] == [0, 0], runs[1][1].err
    same(runs[0][0], runs[1][0], lora=False, close=1e-4)


@pytest.mark.timeout(300)
def test_in_float32_the_losses_agree_to_1e_5(trained: Checkout, overlay: Path, tmp_path: Path) -> None:
    single = (f"{BACKBONE}.dtype=float32",)
    one, outcome = fit(trained, overlay, tmp_path, "sft", "", 1, *single)
    assert outcome.status == 0, outcome.err
    many, outcome = fit(trained, overlay, tmp_path, "sft", "fsdp", 2, *single)
    assert outcome.status == 0, outcome.err
    assert [float(x) for x in losses(many)] == pytest.approx([float(x) for x in losses(one)], rel=1e-5)


@pytest.mark.timeout(300)
def test_a_process_without_a_valid_completion_does_not_stop_the_others(
    trained: Checkout, overlay: Path, tmp_path: Path
) -> None:
    # where all completions are cut off and cut-off ones are masked, no token counts
    more = ("--max_new_tokens=2", "--model.init_args.objective.mask_truncated=true")
    run, outcome = fit(trained, overlay, tmp_path, "grpo lora", "fsdp", 2, *more)
    assert outcome.status == 0, outcome.err
    assert len(losses(run)) == 3


REWARD = """\
import torch.distributed as dist


def breaks(completions):
    if dist.get_rank() == 1:
        raise ValueError("this reward breaks on one process")
    return [0.0] * len(completions.responses)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["fsdp"])
def test_an_error_on_one_process_stops_all_with_its_own_message(
    trained: Checkout, overlay: Path, tmp_path: Path, strategy: str
) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    extra = tmp_path / "reward.yaml"
    extra.write_text(
        "stage: grpo\nmodel:\n  init_args:\n"
        f"    reward_functions: {{breaks: '{tmp_path}/reward.py:breaks'}}\n    rewards: {{breaks: 1.0}}\n"
    )
    began = time.monotonic()
    _, outcome = fit(trained, overlay, tmp_path, "grpo lora", strategy, 2, "-c", str(extra))
    assert outcome.status != 0
    assert "this reward breaks on one process" in outcome.err
    assert time.monotonic() - began < 90  # most of it is the start
