"""Qwen3-Omni through the stages: a few steps, validation, a checkpoint that goes on, an export that can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from cli_fixtures import TINY, Checkout, losses
from lightning.pytorch.callbacks import ModelCheckpoint
from qwen3_miniature import own, write
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import Qwen3OmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.modules import GRPOModule, SFTModule
from erv_lightning.rl.reward_terms import Completions
from erv_lightning.rl.rollout import Sampling

pytest_plugins = ("cli_fixtures",)

LORA = LoraSpec(rank=4, alpha=8)
BACKBONES: dict[str, dict[str, Any]] = {"lora": {"lora": LORA}, "decoder": {"freeze": ("vision", "audio")}}


def letters(completions: Completions) -> list[float]:
    """An untrained policy earns nothing else, so that there is something to learn."""
    return [float(len(text) % 5) for text in completions.texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("qwen3")))


def sft(folder: str, **settings: Any) -> SFTModule:
    return SFTModule(
        lambda: Qwen3OmniBackbone(folder, **settings),
        GrammarJudge(),
        evaluation=Sampling(5),
        lr=1e-2,
        warmup=0.0,
        schedule="constant",
    )


def grpo(folder: str, **settings: Any) -> GRPOModule:
    return GRPOModule(
        lambda: Qwen3OmniBackbone(folder, gradient_checkpointing=True, **settings),
        GrammarJudge(),
        rewards={"letters": 1.0},
        reward_functions={"letters": f"{__file__}:letters"},
        prompts_per_step=2,
        micro_batch_prompts=1,
        generations_per_prompt=4,
        sampling=Sampling(8),
        evaluation=Sampling(5),
        lr=1e-2,
        schedule="constant",
    )


def fit_and_read_back(
    module: Any, data: ClipDataModule, make_trainer: Callable[..., L.Trainer], root: Path, again: Any
) -> dict[str, Tensor]:
    """Two steps, a validation and a checkpoint that another module goes on from; what was logged."""
    module.configure_model()
    before = {name: value.detach().clone() for name, value in module.backbone.named_parameters()}
    keep = ModelCheckpoint(dirpath=root / "checkpoints", save_last=True)
    settings: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 2, "enable_checkpointing": True}
    trainer = make_trainer(max_steps=2, callbacks=[keep], **settings)
    trainer.fit(module, data)
    for name, value in module.backbone.named_parameters():
        assert value.isfinite().all()
        if not value.requires_grad:
            assert torch.equal(value, before[name]), name
    assert any(not torch.equal(value, before[name]) for name, value in module.backbone.named_parameters())
    assert len(module.rows) == 4  # validated
    saved = torch.load(keep.last_model_path, map_location="cpu", weights_only=True)["state_dict"]
    assert all("lora_" in name for name in saved) == module.backbone.has_lora
    make_trainer(max_steps=3).fit(again, data, ckpt_path=keep.last_model_path)
    assert again.global_step == 3
    return dict(trainer.callback_metrics)


@torch.no_grad()
def check_export(module: Any, data: ClipDataModule, folder: Path, start: str) -> None:
    """The export answers as the trained policy does, and not as the untrained one."""
    module.export(folder)
    batch = next(iter(data.val_dataloader())).prompts
    exported, before = (own(Qwen3OmniBackbone(str(path)).eval(), batch) for path in (folder, start))
    assert_close(exported, own(module.backbone.eval(), batch), atol=1e-3, rtol=1e-3)
    assert (exported - before).abs().max() > 0.05


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_cold_start_runs_resumes_and_exports(
    folder: str,
    kind: str,
    make_data: Callable[..., ClipDataModule],
    make_trainer: Callable[..., L.Trainer],
    tmp_path: Path,
) -> None:
    module, again = (sft(folder, **BACKBONES[kind]) for _ in range(2))
    data = make_data()
    logged = fit_and_read_back(module, data, make_trainer, tmp_path, again)
    assert 5 < float(logged["train/loss"]) < 12
    check_export(module, data, tmp_path / "export", folder)


@pytest.mark.parametrize("kind", BACKBONES)
def test_grpo_runs_resumes_and_exports_with_a_shared_prefix(
    folder: str,
    kind: str,
    rl_data: Callable[..., ClipDataModule],
    grpo_trainer: Callable[..., L.Trainer],
    tmp_path: Path,
) -> None:
    module, again = (grpo(folder, **BACKBONES[kind]) for _ in range(2))
    assert module.prefix_sharing
    data = rl_data()
    logged = fit_and_read_back(module, data, grpo_trainer, tmp_path, again)
    assert float(logged["train/grad_norm"]) > 0
    assert float(logged["train/reward_std"]) > 0
    check_export(module, data, tmp_path / "export", folder)


def test_the_cold_start_learns_a_batch(
    folder: str, make_data: Callable[..., ClipDataModule], make_trainer: Callable[..., L.Trainer]
) -> None:
    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    make_trainer(max_steps=15, overfit_batches=1, callbacks=[Losses()]).fit(sft(folder), make_data())
    assert losses[-1] < 0.6 * losses[0]


def test_the_shipped_overlay_trains_and_validates_it(checkout: Checkout, folder: str, tmp_path: Path) -> None:
    words = ("-c", "configs/model/qwen3_omni_30b.yaml", *TINY, "--base", folder, "--runs", tmp_path)
    numbers = ("--max_new_tokens", "4", "--trainer.max_steps", "1", "--accumulate", "1", "--data.num_workers", "0")
    validate = ("--trainer.limit_val_batches", "1", "--trainer.limit_train_batches", "1")
    outcome = checkout.run("fit", "-c", "configs/sft.yaml", *words, *numbers, *validate)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "sft" / "default"
    assert len(losses(run)) == 1
    assert {value.dtype for value in Qwen3OmniBackbone(str(run / "export"), dtype="bfloat16").parameters()} == {
        torch.bfloat16
    }
