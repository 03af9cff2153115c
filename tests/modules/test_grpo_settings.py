"""What each setting of GRPO does, against loops and numbers by hand."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.modules import GRPOModule
from erv_lightning.modules import grpo as grpo_module
from erv_lightning.rl.reward_terms import EXPLANATION_REWARDS, Completions
from erv_lightning.rl.rewards import VARIANTS
from erv_lightning.rl.rollout import Rollout, Sampling
from erv_lightning.rl.update import Objective, StepCounts

MakeData = Callable[..., ClipDataModule]
MakeTrainer = Callable[..., L.Trainer]
MakeGRPO = Callable[..., GRPOModule]
Rows = list[dict[str, Any]]

VARIED = Sampling(24, temperature=2.0)  # at 1 the taught policy says nearly the same each time
GROUP = 4


def own(name: str) -> dict[str, Any]:
    """Settings for one of the rewards below."""
    return {"rewards": {name: 1.0}, "reward_functions": {name: f"{__file__}:{name}"}}


def in_turn(seen: Completions) -> list[float]:
    return [float(index % GROUP) for index in range(len(seen.responses))]


def by_label(seen: Completions) -> list[float]:
    """All the same for the labels from 3 on."""
    return [float(label < 3 and index % 2) for index, label in enumerate(seen.label_ids)]


def same(seen: Completions) -> list[float]:
    return [0.7] * len(seen.responses)


def now_and_then(seen: Completions) -> list[float | None]:
    """Of each group: 1, nothing, 0, 3; of every second group nothing at all."""
    values = [1.0, None, 0.0, 3.0]
    return [values[index % GROUP] if index // GROUP % 2 == 0 else None for index in range(len(seen.responses))]


def weights(module: GRPOModule) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.backbone.trainable()]


class Watch(L.Callback):
    """Keeps the weights at the start, what each batch left, and learning rate and gradients of each optimiser step."""

    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.kl: list[float] = []
        self.rates: list[float] = []
        self.gradients: list[list[Tensor]] = []
        self.weights: list[list[Tensor]] = []

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self.start = weights(module)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.gradients.append([p.grad.clone() for p in module.backbone.trainable()])

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self.rows.append(module.rollouts)
        self.kl.append(float(trainer.callback_metrics.get("train/kl", math.nan)))
        self.weights.append(weights(module))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Every rollout of the training, as it goes on."""
    kept: list[Rollout] = []
    rollout = grpo_module.rollout

    def spy(*args: Any, **kwargs: Any) -> Rollout:
        kept.append(rollout(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(grpo_module, "rollout", spy)
    return kept


@pytest.fixture
def fit(make_grpo: MakeGRPO, rl_data: MakeData, grpo_trainer: MakeTrainer) -> Callable[..., tuple[GRPOModule, Watch]]:
    """Trains a module of these settings for one step, or as long as `trainer` says."""

    def run(
        trainer: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        ckpt_path: Path | None = None,
        **settings: Any,
    ) -> tuple[GRPOModule, Watch]:
        watch, module = Watch(), make_grpo(**settings)
        trained = grpo_trainer(callbacks=[watch], **(trainer or {"max_steps": 1}))
        trained.fit(module, rl_data(**(data or {})), ckpt_path=ckpt_path)
        return module, watch

    return run


Fit = Callable[..., tuple[GRPOModule, Watch]]


def groups(rows: Rows) -> list[Rows]:
    return [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]


def metric(module: GRPOModule, name: str) -> float:
    return float(module.trainer.callback_metrics[f"train/{name}"])


def length(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


# -- mixed precision ----------------------------------------------------------------------------------------------


def test_a_step_in_mixed_precision_samples_and_updates_alike(fit: Fit) -> None:
    module, watch = fit({"max_steps": 2, "precision": "bf16-mixed"}, sampling=VARIED, **own("in_turn"))
    assert metric(module, "sampling/logp_difference") < 0.1
    assert 0 < metric(module, "grad_norm") < math.inf
    assert any(not torch.equal(*pair) for pair in zip(watch.weights[0], watch.weights[1], strict=True))


# -- several updates a rollout ------------------------------------------------------------------------------------


def test_a_run_ends_among_the_updates_of_a_rollout_where_its_steps_end(fit: Fit) -> None:
    module, watch = fit({"max_steps": 3}, updates_per_rollout=2, sampling=Sampling(4), **own("in_turn"))
    assert module.trainer.global_step == 3
    assert len(watch.weights) == 2  # rollouts


def test_a_second_update_weighs_against_the_log_probabilities_of_the_first(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor]] = []
    loss = StepCounts.loss

    def spy(counts: StepCounts, objective: Objective, logp: Tensor, old_logp: Tensor, *args: Any) -> Any:
        calls.append((logp.detach(), old_logp))
        return loss(counts, objective, logp, old_logp, *args)

    monkeypatch.setattr(StepCounts, "loss", spy)
    common: dict[str, Any] = {"updates_per_rollout": 2, "micro_batch_prompts": 2, "sampling": VARIED, "lr": 0.003}
    module, _ = fit({"max_steps": 2}, **common, **own("in_turn"))
    assert len(calls) == 4  # two halves of the prompts in each update
    for half in (0, 1):
        first, second = calls[half], calls[half + 2]
        assert torch.equal(first[1], first[0])
        assert torch.equal(second[1], first[0])
        assert (second[0] - first[0]).abs().max() > 0.01
    assert metric(module, "ratio_mean") != 1.0
    assert metric(module, "clip_ratio/region_mean") > 0


def test_each_update_is_a_step_and_the_schedule_ends_with_the_last(fit: Fit) -> None:
    common: dict[str, Any] = {"updates_per_rollout": 2, "sampling": Sampling(2), "schedule": "linear", "lr": 0.6}
    module, watch = fit({"max_steps": 4}, **common, **own("same"))
    assert module.trainer.global_step == 4
    assert [{row["step"] for row in rows} for rows in watch.rows] == [{0}, {2}]
    assert watch.rates == pytest.approx([0.6, 0.45, 0.3, 0.15])
    module, watch = fit({"max_epochs": 1}, **common, **own("same"))  # 14 clips are 3 rollouts of 4
    assert module.trainer.global_step == 6
    assert watch.rates == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert module.optimizers().param_groups[0]["lr"] == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("most", [0.01, None])
def test_gradients_are_scaled_down_to_the_greatest_norm(fit: Fit, most: float | None) -> None:
    module, watch = fit(max_grad_norm=most, sampling=VARIED, **own("in_turn"))
    free = metric(module, "grad_norm")
    assert free > 0.1
    assert length(watch.gradients[0]) == pytest.approx(free if most is None else most, rel=1e-4)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_the_loss_of_a_first_update_is_worked_out_by_hand_from_advantages_and_lengths(fit: Fit, kind: str) -> None:
    module, watch = fit(objective=Objective(kind), sampling=Sampling(60), micro_batch_prompts=3, **own("in_turn"))
    rows, lengths = watch.rows[0], [row["tokens"] for row in watch.rows[0]]
    assert len(set(lengths)) > 2
    assert max(lengths) < 60  # all of them have ended
    # the ratio is 1 and the policy its own reference: a token's loss is −A
    by = {"grpo": [16 * length for length in lengths], "dapo": [sum(lengths)] * 16, "dr_grpo": [16 * 60] * 16}[kind]
    expected = sum(-row["advantage"] * row["tokens"] / count for row, count in zip(rows, by, strict=True))
    assert metric(module, "loss") == pytest.approx(expected, abs=1e-5)


# -- groups that teach nothing ------------------------------------------------------------------------------------

SHORT = Sampling(2)


def test_groups_that_teach_nothing_are_replaced(fit: Fit, drawn: list[Rollout]) -> None:
    module, watch = fit(sampling=SHORT, **own("by_label"))
    before = watch.rows[0]
    idle = [len({row["reward"] for row in group}) == 1 for group in groups(before)]
    assert 0 < sum(idle) < 4
    drawn.clear()
    module, watch = fit(sampling=SHORT, resample_groups=20, **own("by_label"))
    after = watch.rows[0]
    assert len(after) == len(before)
    assert all(
        len({row["reward"] for row in group}) == 2 and len({row["id"] for row in group}) == 1 for group in groups(after)
    )
    assert all(row["label_id"] < 3 for row in after)
    taught = [group[0]["id"] for group, nothing in zip(groups(before), idle, strict=True) if not nothing]
    assert [group[0]["id"] for group in groups(after)][: len(taught)] == taught
    assert metric(module, "frac_reward_zero_std") == 0
    assert metric(module, "resampled/groups") == sum(idle)
    assert metric(module, "resampled/rounds") == len(drawn) - 1 < 20
    assert metric(module, "num_tokens") == sum(row["tokens"] for row in after)


def test_the_same_seed_resamples_the_same_groups_and_another_seed_others(fit: Fit) -> None:
    def ids(seed: int) -> list[str]:
        torch.manual_seed(seed)
        rows = fit(sampling=VARIED, resample_groups=20, **own("by_label"))[1].rows[0]
        return [(row["id"], row["tokens"], row["reward"]) for row in rows]  # type: ignore[misc]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_replacements_are_a_pure_function_of_seed_and_key(fit: Fit) -> None:
    data: Any = fit(sampling=SHORT, **own("same"))[0].trainer.datamodule  # type: ignore[attr-defined]
    draws = [[sample.id for sample in data.draw(5, key).samples] for key in ("1/0/1", "1/0/1", "1/0/2")]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(draw)) == 5 for draw in draws)
    assert len(data.draw(100, "all").samples) == 14
    data.seed += 1
    assert [sample.id for sample in data.draw(5, "1/0/1").samples] != draws[0]


def test_silent_clips_count_whether_they_were_replaced_or_came_as_a_replacement(
    fit: Fit, clips: SyntheticClips, listed: Any, mute_clip: Path
) -> None:
    silent = [dataclasses.replace(sample, clip=str(mute_clip)) for sample in clips.samples("rl")]
    with pytest.warns(UserWarning, match="no audio track"):
        module, _ = fit(
            data={"source": listed(rl=silent)}, prompts_per_step=2, sampling=SHORT, resample_groups=2, **own("same")
        )
    assert metric(module, "clips_without_audio") == 2 * (1 + 2)  # the batch, and two rounds in vain


def test_resampling_gives_up_at_its_cap_and_keeps_as_many_groups(fit: Fit, drawn: list[Rollout]) -> None:
    before = fit(sampling=SHORT, **own("same"))[1].rows[0]
    drawn.clear()
    module, watch = fit(sampling=SHORT, resample_groups=2, **own("same"))
    assert len(drawn) == 3
    assert (metric(module, "resampled/rounds"), metric(module, "resampled/groups")) == (2, 0)
    assert [row["id"] for row in watch.rows[0]] == [row["id"] for row in before]


# -- advantages ---------------------------------------------------------------------------------------------------


def by_place(seen: Completions) -> list[float]:
    """0, 1, 2, 3 in the first group, 0, 2, 4, 6 in the second, and so on."""
    return [float(index % GROUP * (1 + index // GROUP)) for index in range(len(seen.responses))]


@pytest.mark.parametrize("scale", ["group", "batch", "none", "gdpo"])
def test_advantages_are_divided_by_what_was_asked_for(fit: Fit, scale: Any) -> None:
    how = {"normalise_rewards": True} if scale == "gdpo" else {"scale_rewards": scale}
    rows = fit(sampling=SHORT, **how, **own("by_place"))[1].rows[0]
    rewards = [place * group for group in (1.0, 2.0, 3.0, 4.0) for place in range(GROUP)]
    assert [row["reward"] for row in rows] == rewards
    expected = []
    for group in (1, 2, 3, 4):
        own_rewards = rewards[(group - 1) * GROUP : group * GROUP]
        by = {"batch": statistics.stdev(rewards) + 1e-4, "none": 1.0}.get(scale, statistics.stdev(own_rewards) + 1e-4)
        expected += [(reward - 1.5 * group) / by for reward in own_rewards]
    if scale == "gdpo":  # once more, over the batch
        by = statistics.stdev(expected) + 1e-4
        expected = [value / by for value in expected]
    assert [row["advantage"] for row in rows] == pytest.approx(expected, abs=1e-5)


# -- rewards ------------------------------------------------------------------------------------------------------


def test_a_completion_without_a_reward_counts_for_nothing(fit: Fit) -> None:
    module, watch = fit(sampling=VARIED, **own("now_and_then"))
    spread = statistics.stdev([1.0, 0.0, 3.0]) + 1e-4
    for number, group in enumerate(groups(watch.rows[0])):
        if number % 2:
            assert [row["rewards"]["now_and_then"] for row in group] == [None] * 4
            assert [row["advantage"] for row in group] == [0.0] * 4
        else:
            assert [row["rewards"]["now_and_then"] for row in group] == [1.0, None, 0.0, 3.0]
            expected = [(1 - 4 / 3) / spread, 0.0, (0 - 4 / 3) / spread, (3 - 4 / 3) / spread]
            assert [row["advantage"] for row in group] == pytest.approx(expected, abs=1e-5)
    assert metric(module, "rewards/now_and_then/mean") == pytest.approx(4 / 3)


@pytest.mark.parametrize(("buffer", "free"), [(None, 18), (10, 14)])  # a quarter of 24 tokens is 6
def test_length_costs_from_the_buffer_before_the_limit_on(fit: Fit, buffer: int | None, free: int) -> None:
    _, watch = fit(sampling=VARIED, overlong_buffer=buffer, rewards={"overlong": 2.0})
    lengths = [row["tokens"] for row in watch.rows[0]]
    assert min(lengths) <= free < max(lengths) == 24
    expected = [min(0.0, (free - tokens) / (24 - free)) for tokens in lengths]
    assert [row["rewards"]["overlong"] for row in watch.rows[0]] == pytest.approx(expected, abs=1e-6)
    assert [row["reward"] for row in watch.rows[0]] == pytest.approx([2 * value for value in expected], abs=1e-6)


@pytest.fixture
def familiar(clips: SyntheticClips, listed: Any) -> dict[str, Any]:
    """Settings of data: four of the clips that the policy was taught on, which it often gets right."""
    return {"source": listed(train=clips.samples("train")[:4]), "train_split": "train"}


LIVELY = Sampling(60, temperature=1.2)  # whole responses, right and wrong ones


def test_every_variant_of_the_explanation_reward_has_its_say(
    fit: Fit, verifier_folder: Path, familiar: dict[str, Any]
) -> None:
    weights = dict.fromkeys(EXPLANATION_REWARDS, 1.0)
    rows = fit(data=familiar, rewards=weights, verifier=str(verifier_folder), sampling=LIVELY)[1].rows[0]
    parts = {name: [row["rewards"][name] for row in rows] for name in weights}
    right = [row["answer_id"] == row["label_id"] for row in rows]
    assert len(parts) == len(VARIANTS)
    assert all(0 <= value <= 1 for values in parts.values() for value in values)
    assert all(len(set(values)) > 1 for values in parts.values())
    assert parts["gated"] == [value * yes for value, yes in zip(parts["explanation"], right, strict=True)]
    assert parts["half"] == [float(value >= 0.5) for value in parts["explanation"]]
    assert set(parts["paragraph"]) == {0.0, 1.0}
    assert [row["reward"] for row in rows] == pytest.approx([sum(row["rewards"].values()) for row in rows], abs=1e-5)


def answer_by_loop(decode: Callable[[list[int]], str], ids: list[int], logp: list[float]) -> float | None:
    """Mean log-probability of the tokens behind those that make the opening tag, up to those that make the closing."""
    text = decode(ids)
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    opened, closed = (
        next(n for n in range(len(ids) + 1) if tag in decode(ids[:n])) for tag in ("<answer>", "</answer>")
    )
    return statistics.fmean(logp[opened:closed])


def test_care_pays_right_answers_that_the_reference_finds_likely_and_keeps_one_without_a_penalty(
    fit: Fit, drawn: list[Rollout], familiar: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"rewards": {"accuracy": 1.0, "care": 0.5}, "beta": 0.0, "generations_per_prompt": 8}
    module, watch = fit(data=familiar, sampling=LIVELY, **settings)
    (sampled,), rows = drawn, watch.rows[0]
    assert module._reference is not None
    assert "train/kl" not in module.trainer.callback_metrics
    expected, right = [], [row["answer_id"] == row["label_id"] for row in rows]
    likely = []
    # in the first step the policy, which sampled, is its reference
    for ids, mask, logp in zip(sampled.token_ids, sampled.mask, sampled.logp, strict=True):
        answer = answer_by_loop(module.backbone.decode, ids[mask].tolist(), logp[mask].tolist())
        likely.append(None if answer is None else math.exp(answer))
    for first in range(0, len(rows), 8):
        answered = [p for p in likely[first : first + 8] if p is not None]
        mean = statistics.fmean(answered) if answered else math.nan
        for p, yes in zip(likely[first : first + 8], right[first : first + 8], strict=True):
            expected.append(float(yes and p is not None and p >= mean))
    found = [row["rewards"]["care"] for row in rows]
    assert found == expected
    assert 0 < sum(found) < sum(right) < len(rows)


# -- a reference that follows -------------------------------------------------------------------------------------

FOLLOWS: dict[str, Any] = {"reference_decay": 0.7, "sampling": VARIED, "lr": 0.003, **own("in_turn")}


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4, alpha=8)], ids=["full", "lora"])
def test_the_reference_follows_the_policy_once_a_rollout(fit: Fit, lora: LoraSpec | None) -> None:
    module, watch = fit({"max_steps": 4}, updates_per_rollout=2, lora=lora, **FOLLOWS)
    assert module._reference is not None
    assert lora is None or len(module._reference.kept) == 4 * 7 * 2  # of the adapters alone
    for first, one, two, kept in zip(watch.start, *watch.weights, module._reference.kept, strict=True):
        assert_close(kept, 0.7 * (0.7 * first + 0.3 * one) + 0.3 * two)


def test_kl_grows_from_0_and_less_so_from_a_reference_that_follows(fit: Fit) -> None:
    stays, behind, along = (
        fit({"max_steps": 2}, **{**FOLLOWS, "reference_decay": decay})[1].kl for decay in (None, 0.7, 0.0)
    )
    for kl in (stays, behind, along):
        assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert along[1] == pytest.approx(0.0, abs=1e-6)  # a decay of 0 takes over the policy itself
    assert 0.01 < behind[1] < stays[1]


def test_a_resumed_run_has_the_reference_of_the_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    common = {**FOLLOWS, "prompts_per_step": 7}  # 14 clips: two steps an epoch
    whole, watched = fit({"max_epochs": 2}, **common)
    half, _ = fit({"max_epochs": 1}, **common)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert len(torch.load(tmp_path / "half.ckpt", weights_only=True)["reference"]) > 0
    resumed, again = fit({"max_epochs": 2}, ckpt_path=tmp_path / "half.ckpt", **common)
    assert resumed.global_step == whole.global_step == 4
    assert again.rows == watched.rows[2:]
    assert whole._reference is not None
    assert resumed._reference is not None
    for mine, theirs in zip(resumed._reference.kept, whole._reference.kept, strict=True):
        assert torch.equal(mine, theirs)


# -- what is sampled ----------------------------------------------------------------------------------------------


def test_what_is_said_of_a_clip_depends_on_seed_step_and_clip_alone(fit: Fit, drawn: list[Rollout]) -> None:
    def said(seed: int, prompts: int, **trainer: Any) -> list[dict[str, list[list[int]]]]:
        """For each step, the completions of each clip."""
        drawn.clear()
        torch.manual_seed(seed)
        _, watch = fit(trainer, sampling=VARIED, prompts_per_step=prompts, lr=0.0, beta=0.0, **own("same"))
        steps = []
        for rows, one in zip(watch.rows, drawn, strict=True):
            texts = [ids[mask].tolist() for ids, mask in zip(one.token_ids, one.mask, strict=True)]
            ids = [row["id"] for row in rows[::GROUP]]
            steps.append({name: texts[i * GROUP : (i + 1) * GROUP] for i, name in enumerate(ids)})
        return steps

    (all_at_once,), in_pairs = said(1, 14, max_epochs=1), said(1, 2, max_epochs=1)
    for name, texts in in_pairs[0].items():
        assert texts == all_at_once[name]
    for name, texts in in_pairs[1].items():  # the same weights and clip, one step later
        assert texts != all_at_once[name]
    (other_seed,) = said(2, 14, max_epochs=1)
    assert all(texts != all_at_once[name] for name, texts in other_seed.items())


def test_sampling_leaves_the_random_state_alone(fit: Fit) -> None:
    state = torch.get_rng_state()
    fit(sampling=VARIED, **own("in_turn"))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_shared_prefixes_training_is_the_same(fit: Fit, drawn: list[Rollout]) -> None:
    watches = [fit(sampling=VARIED, prefix_sharing=share, **own("in_turn")) for share in (True, False)]
    assert torch.equal(drawn[0].token_ids, drawn[1].token_ids)
    (shared, one), (apart, other) = watches
    assert metric(shared, "loss") == pytest.approx(metric(apart, "loss"), rel=1e-4, abs=1e-6)
    away = [mine - theirs for mine, theirs in zip(one.gradients[0], other.gradients[0], strict=True)]
    assert length(away) < 1e-4 * length(one.gradients[0])


class NoPlans(QwenOmniBackbone):
    """A backbone that takes masks only."""

    shares_prefixes = False


def test_a_backbone_that_takes_no_plan_is_told_how_to_go_on(make_grpo: MakeGRPO, taught: Any) -> None:
    module = make_grpo()
    module.make_backbone = lambda: NoPlans(str(taught.folder))
    with pytest.raises(ValueError, match=r"NoPlans takes no attention plan.*model\.init_args\.prefix_sharing: false"):
        module.configure_model()
    module = make_grpo(prefix_sharing=False)
    module.make_backbone = lambda: NoPlans(str(taught.folder))
    module.configure_model()


# -- what is refused ----------------------------------------------------------------------------------------------


def alone(make_grpo: MakeGRPO, batch_size: int | None = None, **trainer: Any) -> GRPOModule:
    """A module whose trainer is only what it is asked about."""
    module = make_grpo()
    given = {"world_size": 1, "precision": "32-true", **trainer}
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=batch_size), **given)  # type: ignore[assignment]
    return module


def test_prompts_are_shared_out_evenly_or_not_at_all(make_grpo: MakeGRPO) -> None:
    module = alone(make_grpo, world_size=2)
    module._share_prompts()
    assert module.data.batch_size == 2
    message = r"prompts_per_step is 4, which 3 processes cannot share evenly: take a multiple of 3"
    with pytest.raises(ValueError, match=message):
        alone(make_grpo, world_size=3)._share_prompts()


def test_a_batch_size_of_the_data_that_says_something_else_is_refused(make_grpo: MakeGRPO) -> None:
    alone(make_grpo, batch_size=4)._share_prompts()
    with pytest.raises(
        ValueError, match=r"data\.batch_size is 8: .*prompts_per_step \(4, .*leave data\.batch_size out"
    ):
        alone(make_grpo, batch_size=8)._share_prompts()


def test_float16_is_refused(make_grpo: MakeGRPO) -> None:
    with pytest.raises(ValueError, match="bf16-mixed"):
        alone(make_grpo, precision="16-mixed")._share_prompts()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("prompts_per_step", 0, "at least 1"),
        ("micro_batch_prompts", 0, "at least 1"),
        ("updates_per_rollout", 0, "at least 1"),
        ("overlong_buffer", 0, "from 1 to 60"),
        ("overlong_buffer", 61, "from 1 to 60"),  # of max_new_tokens
        ("resample_groups", -1, "at least 0"),
        ("beta", -0.1, "at least 0"),
        ("reference_decay", 1.5, "from 0 to 1"),
        ("max_grad_norm", 0.0, "above 0; null"),  # no clipping, as a user of Lightning might think
    ],
)
def test_a_setting_out_of_range_is_refused(make_grpo: MakeGRPO, name: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}, it must be {allowed}"):
        make_grpo(**{name: value})


def test_all_settings_out_of_range_are_named_at_once(make_grpo: MakeGRPO) -> None:
    with pytest.raises(
        ValueError, match=r"^model\.init_args: prompts_per_step is 0.*; beta is -1.*; max_grad_norm is 0"
    ):
        make_grpo(prompts_per_step=0, beta=-1, max_grad_norm=0)
