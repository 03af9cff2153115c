from __future__ import annotations

import re
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

from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import GRPOModule
from erv_lightning.modules import grpo as grpo_module
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Rollout, Sampling
from erv_lightning.text import split_sentences

MakeData = Callable[..., ClipDataModule]
MakeTrainer = Callable[..., L.Trainer]
MakeGRPO = Callable[..., GRPOModule]
VARIED = Sampling(24, temperature=2.0)  # at 1 the taught policy says nearly the same each time


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


def logps(backbone: Any, batch: ClipBatch, drawn: Rollout, temperature: float = 1.0) -> Tensor:
    with torch.no_grad():
        return completion_logps(
            backbone,
            backbone.embed(batch.prompts),
            batch.prompts,
            drawn.token_ids,
            drawn.mask,
            temperature=temperature,
            unsayable_ids=backbone.unsayable_ids,
        )[0]


# -- a step -------------------------------------------------------------------------------------------------------


def test_a_step_logs_what_every_dashboard_knows_and_its_values_are_those_of_its_rows(
    make_grpo: MakeGRPO,
    rl_data: MakeData,
    grpo_trainer: MakeTrainer,
    steps: list[Rollout],
    verifier_folder: Path,
) -> None:
    watch = Watch()
    rewards = {"format": 1.0, "accuracy": 0.5, "explanation": 2.0}
    module = make_grpo(rewards=rewards, verifier=str(verifier_folder), prompts_per_step=3)
    trainer = grpo_trainer(max_steps=1, callbacks=[watch])
    trainer.fit(module, rl_data())

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


def test_a_step_logs_where_its_time_goes_and_signs_of_a_gamed_verifier(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, verifier_folder: Path
) -> None:
    watch = Watch()
    module = make_grpo(rewards=None, verifier=str(verifier_folder), sampling=Sampling(60, temperature=1.1))
    trainer = grpo_trainer(max_steps=1, callbacks=[watch])
    trainer.fit(module, rl_data(train_split="train"))

    rows, found = watch.rows[0], {name: float(value) for name, value in trainer.callback_metrics.items()}
    parts = ("decode", "generate", "reference", "reward", "update", "judge")
    assert {name for name in found if "timing_s" in name} == {f"train/timing_s/{part}" for part in parts}
    assert all(
        found[f"train/timing_s/{part}"] > 0 for part in parts if part != "decode"
    )  # which no clock measures here
    seconds, tokens = sum(found[f"train/timing_s/{part}"] for part in parts), sum(row["tokens"] for row in rows)
    right = [[row["rewards"]["accuracy"] >= 1 for row in rows[start : start + 4]] for start in range(0, 16, 4)]
    agrees = [float(row["judges"]["grammar"] == row["label_id"]) for row in rows]
    pays = [row["rewards"]["explanation"] for row in rows]
    texts = [row["explanation"] for row in rows]
    expected = {
        "step_time": seconds,
        "perf/throughput": tokens / seconds,
        "rewards/accuracy/all_right": statistics.fmean(map(all, right)),
        "rewards/accuracy/all_wrong": statistics.fmean(not any(group) for group in right),
        "judge/accuracy": statistics.fmean(agrees),
        "judge/reward_gap": statistics.fmean(pays) - statistics.fmean(agrees),
        "judge/correlation": statistics.correlation(pays, agrees),
        "explanations/words": statistics.fmean(len(re.findall(r"[\w'’]+", text)) for text in texts),
        "explanations/sentences": statistics.fmean(len(split_sentences(text)) for text in texts),
        "completions/mean_terminated_length": statistics.fmean(row["tokens"] for row in rows if not row["truncated"]),
        "ratio_mean": 1.0,  # the policy that sampled is the one that is updated
        "clip_ratio/low_mean": 0.0,
        "clip_ratio/high_mean": 0.0,
        "clip_ratio/region_mean": 0.0,
        "sampling/logp_difference": 0.0,
    }
    assert {name: found[f"train/{name}"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    rates = ("emotion_word_rate", "distinct_1", "distinct_2", "repeated_sentences", "neutral_ratio")
    assert all(0 <= found[f"train/explanations/{rate}"] <= 1 for rate in rates)
    assert found["train/perf/peak_memory_gb"] > 0.1
    assert found["train/grad_norm"] > 0


def test_what_earned_more_than_its_group_becomes_likelier(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, steps: list[Rollout]
) -> None:
    watch = Watch()
    module = make_grpo(beta=0.0, lr=1e-4)
    module.configure_model()
    start = QwenOmniBackbone(str(module.backbone.model.config._name_or_path))
    grpo_trainer(max_steps=1, callbacks=[watch]).fit(module, rl_data())
    batch, drawn = watch.batches[0], steps[0]
    advantages = torch.tensor([row["advantage"] for row in watch.rows[0]])
    assert advantages.any()
    gained = logps(module.backbone, batch, drawn) - logps(start, batch, drawn)
    per_completion = gained.sum(1) / drawn.mask.sum(1)
    assert (advantages * per_completion).sum() > 0


def test_frozen_towers_stay_and_the_decoder_moves(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer
) -> None:
    module = make_grpo(sampling=VARIED, rewards={"words": 1.0}, reward_functions={"words": f"{__file__}:words"})
    module.configure_model()
    before = {name: value.clone() for name, value in module.named_parameters()}
    grpo_trainer(max_steps=2).fit(module, rl_data())
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


def test_equal_rewards_give_no_gradient(make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer) -> None:
    watch = Watch()
    own = {"rewards": {"same": 1.0}, "reward_functions": {"same": f"{__file__}:same"}}
    module = make_grpo(beta=0.0, lr=1.0, sampling=Sampling(6), **own)
    module.configure_model()
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = grpo_trainer(max_steps=1, callbacks=[watch])
    trainer.fit(module, rl_data())
    assert [row["advantage"] for row in watch.rows[0]] == [0.0] * 16
    assert float(trainer.callback_metrics["train/frac_reward_zero_std"]) == 1.0
    assert all(not gradient.any() for gradient in watch.gradients[0].values())
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


# -- the reference ------------------------------------------------------------------------------------------------


def test_the_reference_is_the_start_with_adapters_off_and_as_kept_weights_alike(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, steps: list[Rollout], taught: Any
) -> None:
    watch = Watch()
    own = {"rewards": {"words": 1.0}, "reward_functions": {"words": f"{__file__}:words"}, "sampling": VARIED}
    loras = (LoraSpec(rank=4, alpha=8), None)
    modules = [make_grpo(lora=lora, lr=0.02, prompts_per_step=2, **own) for lora in loras]
    for module in modules:
        trainer = grpo_trainer(max_steps=2, callbacks=[watch])
        trainer.fit(module, rl_data())
        assert trainer.callback_metrics["train/kl"] > 0  # it has left its reference
    batch, drawn = watch.batches[0], steps[0]
    start = logps(QwenOmniBackbone(str(taught.folder)), batch, drawn, VARIED.temperature)
    for module in modules:
        with torch.no_grad():
            found = module._reference_logps(module.backbone.split(batch.prompts), drawn)
        assert_close(found, start, atol=1e-5, rtol=1e-5)
        assert (logps(module.backbone, batch, drawn, VARIED.temperature) - start).abs().max() > 0.01
    assert [module._reference is None for module in modules] == [True, False]


def test_no_gradient_reaches_the_reference(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor] = []
    own = GRPOModule._reference_logps

    def spy(*args: Any) -> Tensor:
        found.append(own(*args))
        return found[-1]

    monkeypatch.setattr(GRPOModule, "_reference_logps", spy)
    for lora in (LoraSpec(rank=4, alpha=8), None):
        grpo_trainer(max_steps=1).fit(make_grpo(lora=lora, sampling=Sampling(4)), rl_data())
    assert [one.requires_grad for one in found] == [False, False]


def test_without_a_penalty_no_reference_is_kept(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer
) -> None:
    module = make_grpo(beta=0.0, sampling=Sampling(4))
    trainer = grpo_trainer(max_steps=1)
    trainer.fit(module, rl_data())
    assert module._frozen == {}
    assert module._reference is None
    assert "train/kl" not in trainer.callback_metrics


def test_a_checkpoint_holds_the_policy_and_neither_verifier_nor_reference(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, verifier_folder: Path, tmp_path: Path
) -> None:
    module = make_grpo(rewards=None, verifier=str(verifier_folder), sampling=Sampling(4), prompts_per_step=2)
    trainer = grpo_trainer(max_steps=1)
    trainer.fit(module, rl_data())
    assert set(module._frozen) == {"verifier"}
    assert module._reference is not None
    assert all(name.startswith("policy.") for name in module.state_dict())
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    checkpoint = torch.load(tmp_path / "policy.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(module.state_dict())
    assert "reference" not in checkpoint
    trained = {id(parameter) for group in module.optimizers().param_groups for parameter in group["params"]}  # type: ignore[union-attr]
    assert trained == {id(parameter) for parameter in module.backbone.trainable()}


# -- inside training ----------------------------------------------------------------------------------------------


def test_validation_inside_training_reports_every_metric_and_training_goes_on(
    make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = make_grpo(sampling=Sampling(4), evaluation=Sampling(60), prompts_per_step=2)
    logger = CSVLogger(str(tmp_path), name="", version="log")
    settings: dict[str, Any] = {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1.0, "logger": logger}
    trainer = grpo_trainer(**settings)
    trainer.fit(module, rl_data())
    assert trainer.global_step == 2
    names = {f"val/{name}" for name in ("war", "uar", "eea", "epc", "fcr", "fcr_given_correct")}
    header = (tmp_path / "log" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert names <= set(header) & set(trainer.callback_metrics)
    assert len(module.rows) == 7


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"generations_per_prompt": 1}, {"sampling": Sampling(temperature=0)}, {"sampling": Sampling(top_p=0.9)}]
)
def test_sampling_that_compares_nothing_is_refused(make_grpo: MakeGRPO, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GRPO compares completions of one prompt"):
        make_grpo(**wrong)


def test_the_explanation_reward_without_a_verifier_is_refused(make_grpo: MakeGRPO) -> None:
    with pytest.raises(ValueError, match=r"needs model\.init_args\.verifier, or weight 0"):
        make_grpo(rewards=None)
    make_grpo(rewards={"format": 1.0, "explanation": 0.0})


def test_a_verifier_of_other_labels_than_the_datas_is_refused_before_the_first_step(
    make_grpo: MakeGRPO,
    rl_data: MakeData,
    grpo_trainer: MakeTrainer,
    steps: list[Rollout],
    tmp_path: Path,
) -> None:
    EmotionVerifier.tiny(["A smile."], ["happy", "sad", "neutral", "angry"]).save(tmp_path / "other")
    module = make_grpo(rewards=None, verifier=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"'dfew' also has \['surprise', 'disgust', 'fear'\]"):
        grpo_trainer(max_steps=1).fit(module, rl_data())
    assert steps == []
