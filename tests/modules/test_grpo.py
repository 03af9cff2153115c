from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.data.datamodule import ClipBatch, ClipDataModule
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import GRPOModule
from erv_lightning.modules import grpo as grpo_module
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Rollout, Sampling

MakeData = Callable[..., ClipDataModule]
MakeTrainer = Callable[..., L.Trainer]
FREE = {"format": 1.0, "accuracy": 1.0}  # rewards that need no verifier


@pytest.fixture
def make_module(taught: Any) -> Callable[..., GRPOModule]:
    """GRPO from the taught policy."""

    def make(lora: LoraSpec | None = None, **settings: Any) -> GRPOModule:
        defaults = {
            "rewards": FREE,
            "generations_per_prompt": 4,
            "sampling": Sampling(60),
            "evaluation": Sampling(4),
            "lr": 1e-3,
            "schedule": "constant",
        }
        policy = lambda: QwenOmniBackbone(str(taught.folder), lora=lora, freeze=["vision", "audio"])  # noqa: E731
        return GRPOModule(policy, GrammarJudge(), **{**defaults, **settings})

    return make


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """What each training step samples, as it goes on."""
    kept: list[Rollout] = []
    own = grpo_module.rollout

    def spy(*args: Any, **kwargs: Any) -> Rollout:
        kept.append(own(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(grpo_module, "rollout", spy)
    return kept


class Watch(L.Callback):
    """Keeps the batches, and the rows and gradients of each step."""

    def __init__(self) -> None:
        self.batches: list[ClipBatch] = []
        self.rows: list[list[dict[str, Any]]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self.rows.append(module.rollouts)


def logps(backbone: QwenOmniBackbone, batch: ClipBatch, drawn: Rollout) -> Tensor:
    with torch.no_grad():
        embeds = backbone.embed(batch.prompts)
        return completion_logps(
            backbone, embeds, batch.prompts, drawn.token_ids, drawn.mask, unsayable_ids=backbone.unsayable_ids
        )[0]


# -- a step -------------------------------------------------------------------------------------------------------


def test_a_step_logs_what_every_dashboard_knows_and_its_values_are_those_of_its_rows(
    make_module: Callable[..., GRPOModule],
    make_data: MakeData,
    make_trainer: MakeTrainer,
    steps: list[Rollout],
    verifier_folder: Path,
) -> None:
    watch = Watch()
    rewards = {"format": 1.0, "accuracy": 0.5, "explanation": 2.0}
    module = make_module(rewards=rewards, verifier=str(verifier_folder))
    trainer = make_trainer(max_steps=1, callbacks=[watch])
    trainer.fit(module, make_data(train_split="rl", batch_size=3))

    (rows,), (drawn,) = watch.rows, steps
    assert [row["id"] for row in rows] == [s.id for s in watch.batches[0].samples for _ in range(4)]
    totals = [sum(rewards[name] * row["rewards"][name] for name in rewards) for row in rows]
    assert [row["reward"] for row in rows] == pytest.approx(totals, abs=1e-5)
    groups = [totals[start : start + 4] for start in range(0, 12, 4)]
    lengths = [len([one for one in row if one]) for row in drawn.mask.tolist()]
    expected = {
        "train/reward": statistics.fmean(totals),
        "train/reward_std": statistics.fmean(map(statistics.stdev, groups)),
        "train/frac_reward_zero_std": sum(len(set(group)) == 1 for group in groups) / 3,
        "train/completions/mean_length": statistics.fmean(lengths),
        "train/completions/min_length": min(lengths),
        "train/completions/max_length": max(lengths),
        "train/completions/clipped_ratio": statistics.fmean(drawn.truncated.tolist()),
        "train/num_tokens": sum(lengths),
        "train/kl": 0.0,  # before its first update the policy is its reference
    }
    for name in rewards:
        parts = [row["rewards"][name] for row in rows]
        expected[f"train/rewards/{name}/mean"] = statistics.fmean(parts)
        expected[f"train/rewards/{name}/std"] = statistics.stdev(parts)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(found) >= {*expected, "train/loss", "train/entropy"}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert found["train/entropy"] > 0
    assert len(set(totals)) > 1  # a step with something to learn


def test_what_earned_more_than_its_group_becomes_likelier(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer, steps: list[Rollout]
) -> None:
    watch = Watch()
    module = make_module(beta=0.0, lr=1e-4)
    module.configure_model()
    start = QwenOmniBackbone(str(module.backbone.model.config._name_or_path))
    make_trainer(max_steps=1, callbacks=[watch]).fit(module, make_data(train_split="rl", batch_size=4))
    batch, drawn = watch.batches[0], steps[0]
    advantages = torch.tensor([row["advantage"] for row in watch.rows[0]])
    assert advantages.any()
    gained = logps(module.backbone, batch, drawn) - logps(start, batch, drawn)  # type: ignore[arg-type]
    per_completion = gained.sum(1) / drawn.mask.sum(1)
    assert (advantages * per_completion).sum() > 0


def test_frozen_towers_stay_and_the_decoder_moves(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer
) -> None:
    module = make_module(sampling=Sampling(8), rewards={"words": 1.0}, reward_functions={"words": f"{__file__}:words"})
    module.configure_model()
    before = {name: value.clone() for name, value in module.named_parameters()}
    make_trainer(max_steps=2).fit(module, make_data(train_split="rl"))
    for name, value in module.named_parameters():
        frozen = "visual" in name or "audio_tower" in name
        assert value.isfinite().all()
        assert torch.equal(value, before[name]) == frozen, name


def words(seen: Any) -> Tensor:
    """Differs within nearly every group."""
    return torch.tensor([float(index % 3) for index in range(len(seen.responses))])


def same(seen: Any) -> Tensor:
    """A reward without news."""
    return torch.full((len(seen.responses),), 0.7)


def test_equal_rewards_give_no_gradient(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer
) -> None:
    watch = Watch()
    own = {"rewards": {"same": 1.0}, "reward_functions": {"same": f"{__file__}:same"}}
    module = make_module(beta=0.0, lr=1.0, sampling=Sampling(6), **own)
    module.configure_model()
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = make_trainer(max_steps=1, callbacks=[watch])
    trainer.fit(module, make_data(train_split="rl"))
    assert [row["advantage"] for row in watch.rows[0]] == [0.0] * 16
    assert float(trainer.callback_metrics["train/frac_reward_zero_std"]) == 1.0
    assert all(not gradient.any() for gradient in watch.gradients[0].values())
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


# -- the reference ------------------------------------------------------------------------------------------------


def test_the_reference_is_the_start_with_adapters_off_and_as_a_frozen_copy_alike(
    make_module: Callable[..., GRPOModule],
    make_data: MakeData,
    make_trainer: MakeTrainer,
    steps: list[Rollout],
    taught: Any,
) -> None:
    watch = Watch()
    own = {"rewards": {"words": 1.0}, "reward_functions": {"words": f"{__file__}:words"}, "sampling": Sampling(12)}
    modules = [make_module(lora=lora, lr=0.02, **own) for lora in (LoraSpec(rank=4, alpha=8), None)]
    for module in modules:
        trainer = make_trainer(max_steps=2, callbacks=[watch])
        trainer.fit(module, make_data(train_split="rl", batch_size=2))
        assert trainer.callback_metrics["train/kl"] > 0  # it has left its reference
    batch, drawn = watch.batches[0], steps[0]
    start = logps(QwenOmniBackbone(str(taught.folder)), batch, drawn)
    for module in modules:
        found = module._reference_logps(batch, drawn)
        assert found is not None
        assert not found.requires_grad
        assert_close(found, start, atol=1e-5, rtol=1e-5)
        assert (logps(module.backbone, batch, drawn) - start).abs().max() > 0.01  # type: ignore[arg-type]
    assert "reference" not in modules[0]._frozen
    assert "reference" in modules[1]._frozen


def test_without_a_penalty_no_reference_is_kept(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer
) -> None:
    module = make_module(beta=0.0, sampling=Sampling(4))
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, make_data(train_split="rl"))
    assert module._frozen == {}
    assert "train/kl" not in trainer.callback_metrics


def test_a_checkpoint_holds_the_policy_and_neither_verifier_nor_reference(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer, verifier_folder: Path
) -> None:
    module = make_module(rewards=None, verifier=str(verifier_folder), sampling=Sampling(4))
    make_trainer(max_steps=1).fit(module, make_data(train_split="rl", batch_size=2))
    assert set(module._frozen) == {"verifier", "reference"}
    assert all(name.startswith("policy.") for name in module.state_dict())
    trained = {id(parameter) for group in module.optimizers().param_groups for parameter in group["params"]}  # type: ignore[union-attr]
    assert trained == {id(parameter) for parameter in module.backbone.trainable()}


# -- inside training ----------------------------------------------------------------------------------------------


def test_validation_inside_training_reports_every_metric_and_training_goes_on(
    make_module: Callable[..., GRPOModule], make_data: MakeData, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = make_module(sampling=Sampling(4), evaluation=Sampling(60))
    logger = CSVLogger(str(tmp_path), name="", version="log")
    settings: dict[str, Any] = {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1.0, "logger": logger}
    trainer = make_trainer(**settings)
    trainer.fit(module, make_data(train_split="rl", batch_size=2))
    assert trainer.global_step == 2
    names = {f"val/{name}" for name in ("war", "uar", "eea", "epc", "fcr", "fcr_given_correct")}
    header = (tmp_path / "log" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert names <= set(header) & set(trainer.callback_metrics)
    assert len(module.rows) == 7


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"generations_per_prompt": 1}, {"sampling": Sampling(temperature=0)}, {"sampling": Sampling(top_p=0.9)}]
)
def test_sampling_that_compares_nothing_is_refused(
    make_module: Callable[..., GRPOModule], wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="GRPO compares completions of one prompt"):
        make_module(**wrong)


def test_the_explanation_reward_without_a_verifier_is_refused(make_module: Callable[..., GRPOModule]) -> None:
    with pytest.raises(ValueError, match=r"needs model\.init_args\.verifier, or weight 0"):
        make_module(rewards=None)
    make_module(rewards={"format": 1.0, "explanation": 0.0})


def test_a_verifier_of_other_labels_than_the_datas_is_refused_before_the_first_step(
    make_module: Callable[..., GRPOModule],
    make_data: MakeData,
    make_trainer: MakeTrainer,
    steps: list[Rollout],
    tmp_path: Path,
) -> None:
    EmotionVerifier.tiny(["A smile."], ["happy", "sad", "neutral", "angry"]).save(tmp_path / "other")
    module = make_module(rewards=None, verifier=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"'dfew' also has \['surprise', 'disgust', 'fear'\]"):
        make_trainer(max_steps=1).fit(module, make_data(train_split="rl"))
    assert steps == []
