from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from erv_lightning.callbacks.export import ExportBest, renew_card
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import SFTModule, VerifierModule
from erv_lightning.runs import RunFolder

MakeTrainer = Callable[..., L.Trainer]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "verifier", "test")


@pytest.fixture
def sentences(make_data: Callable[..., ClipDataModule]) -> ClipDataModule:
    return make_data(unit="sentences", batch_size=4)


class BestAt(L.Callback):
    """Saves the run's best checkpoint after a step, and keeps the verdicts after each."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self.run, self.step = run, step
        self.probs: dict[int, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.run.best)
        module.eval()
        self.probs[trainer.global_step] = module.verifier.probs(["The voice is loud."])
        module.train()


def exported(run: RunFolder) -> torch.Tensor:
    return EmotionVerifier.from_pretrained(str(run.export)).probs(["The voice is loud."])


def test_the_best_weights_are_exported_and_not_the_last(
    run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer
) -> None:
    best = BestAt(run, step=2)
    make_trainer(max_steps=6, callbacks=[best, ExportBest(run)]).fit(VerifierModule(lr=0.01), sentences)
    assert_close(exported(run), best.probs[2])
    assert (best.probs[2] - best.probs[6]).abs().max() > 0.01
    assert [path.name for path in run.path.iterdir() if "export" in path.name] == ["export"]
    card = (run.export / "README.md").read_text(encoding="utf-8")
    assert "The weights are those of `best.ckpt` after 2 optimiser steps" in card
    assert "0.625" not in card
    (run.path / "summary.json").write_text('{"test/f1_macro": 0.625}')
    renew_card(run)
    assert "| f1_macro | 0.625 |" in (run.export / "README.md").read_text(encoding="utf-8")


def test_without_an_exported_best_model_no_card_is_written(run: RunFolder) -> None:
    renew_card(run)
    assert not run.path.exists()


def test_a_best_checkpoint_of_another_model_is_not_exported(
    run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer
) -> None:
    run.checkpoints.mkdir(parents=True)
    torch.save({"state_dict": {"other.weight": torch.zeros(2)}}, run.best)
    with pytest.raises(ValueError, match=r"best\.ckpt is of another model .* missing; other\.weight unknown"):
        make_trainer(max_steps=1, callbacks=[ExportBest(run)]).fit(VerifierModule(), sentences)
    assert not run.export.exists()


def test_without_a_best_checkpoint_the_last_weights_are_exported(
    run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer
) -> None:
    module = VerifierModule(lr=0.01)
    make_trainer(max_steps=2, callbacks=[ExportBest(run)]).fit(module, sentences)
    assert module.verifier is not None
    assert_close(exported(run), module.verifier.eval().probs(["The voice is loud."]))


def test_an_export_that_fails_leaves_the_old_one_and_the_next_one_succeeds(
    run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer
) -> None:
    class Fails(VerifierModule):
        def export(self, folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{")
            raise OSError("disk full")

    run.export.mkdir(parents=True)
    (run.export / "config.json").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        make_trainer(max_steps=1, callbacks=[ExportBest(run)]).fit(Fails(), sentences)
    assert (run.export / "config.json").read_text() == "old"
    assert [path.name for path in run.export.iterdir()] == ["config.json"]
    make_trainer(max_steps=1, callbacks=[ExportBest(run)]).fit(VerifierModule(), sentences)
    assert exported(run).shape == (1, 7)
    assert [path.name for path in run.path.iterdir()] == ["export"]


def test_a_trial_run_exports_nothing(run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer) -> None:
    make_trainer(fast_dev_run=True, callbacks=[ExportBest(run)]).fit(VerifierModule(), sentences)
    assert not run.path.exists()


def test_a_policys_best_adapters_are_exported_merged(
    make_data: Callable[..., ClipDataModule], make_trainer: MakeTrainer, prompts: PromptBatch, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path, "sft", "test")
    module = SFTModule(
        lambda: QwenOmniBackbone("tiny", lora=LoraSpec(rank=4, alpha=8)), GrammarJudge(), lr=0.05, warmup=0.0
    )

    class Best(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            if trainer.global_step == 1:
                trainer.save_checkpoint(run.best)

    make_trainer(max_steps=2, callbacks=[Best(), ExportBest(run)]).fit(module, make_data(batch_size=2))
    best = torch.load(run.best, weights_only=True)["state_dict"]
    assert all(torch.equal(module.state_dict()[name], value) for name, value in best.items())
    plain = QwenOmniBackbone(str(run.export))
    with torch.no_grad():
        adapted, merged = (
            policy.hidden(policy.embed(prompts), prompts.position_ids, torch.ones(3, 1, 1, 1, dtype=torch.bool))
            for policy in (module.backbone.eval(), plain.eval())
        )
    assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


@pytest.fixture
def mesh(tmp_path: Path) -> DeviceMesh:
    """Of this process alone; `tidy_process` ends it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    return init_device_mesh("cpu", (1,))


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4, alpha=8)])
def test_a_sharded_policy_is_exported_whole_from_its_best_checkpoint(
    make_data: Callable[..., ClipDataModule],
    make_trainer: MakeTrainer,
    prompts: PromptBatch,
    tmp_path: Path,
    mesh: DeviceMesh,
    lora: LoraSpec | None,
) -> None:
    run = RunFolder(tmp_path, "sft", "test")

    class Sharded(SFTModule):
        def configure_model(self) -> None:
            if self.policy is None:
                super().configure_model()
                for layer in self.backbone.model.model.language_model.layers:
                    fully_shard(layer, mesh=mesh)

    class Best(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            if trainer.global_step == 1:
                whole = {
                    name: getattr(value, "full_tensor", lambda value=value: value)().clone()
                    for name, value in module.state_dict().items()
                }
                run.checkpoints.mkdir(parents=True)
                torch.save({"state_dict": whole, "global_step": 1}, run.best)

    module = Sharded(lambda: QwenOmniBackbone("tiny", lora=lora), GrammarJudge(), lr=0.05, warmup=0.0)
    make_trainer(max_steps=2, gradient_clip_val=None, callbacks=[Best(), ExportBest(run)]).fit(
        module, make_data(batch_size=2)
    )

    best = torch.load(run.best, weights_only=True)["state_dict"]
    expected = QwenOmniBackbone("tiny", lora=lora)
    expected.load_state_dict({name.removeprefix("policy."): value for name, value in best.items()}, strict=lora is None)
    exported_policy = QwenOmniBackbone(str(run.export))
    with torch.no_grad():
        ours, theirs = (
            policy.hidden(policy.embed(prompts), prompts.position_ids, torch.ones(3, 1, 1, 1, dtype=torch.bool))
            for policy in (expected.eval(), exported_policy.eval())
        )
    assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_a_sharded_verifier_is_exported_whole(
    run: RunFolder, sentences: ClipDataModule, make_trainer: MakeTrainer, mesh: DeviceMesh
) -> None:
    class Sharded(VerifierModule):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            assert self.verifier is not None
            fully_shard(self.verifier.model, mesh=mesh)

    class Last(L.Callback):
        def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
            whole = {name: value.full_tensor() for name, value in module.state_dict().items() if "verifier" in name}
            run.checkpoints.mkdir(parents=True)
            torch.save({"state_dict": whole, "global_step": 2}, run.last)
            self.probs = module.verifier.eval().probs(["The voice is loud."])

    last = Last()
    make_trainer(max_steps=2, gradient_clip_val=None, callbacks=[last, ExportBest(run)]).fit(
        Sharded(lr=0.01), sentences
    )
    assert_close(exported(run), last.probs)
