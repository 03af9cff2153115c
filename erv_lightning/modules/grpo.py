"""Stage 3: GRPO with format, accuracy and explanation rewards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from erv_lightning.data.datamodule import ClipBatch
from erv_lightning.judges import Judge
from erv_lightning.labels import get_label_space
from erv_lightning.models.backbone import Backbone
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.optimisation import Schedule
from erv_lightning.modules.policy import PolicyModule
from erv_lightning.rl.advantages import group_advantages
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.objectives import policy_loss
from erv_lightning.rl.reward_terms import Completions, ExplanationRule, RewardSum
from erv_lightning.rl.rollout import Rollout, Sampling, rollout
from erv_lightning.text import parse_response


class GRPOModule(PolicyModule):
    """Group relative policy optimisation, on-policy: one update per rollout (method.md, stage 3).

    Each training step draws `generations_per_prompt` completions for every prompt of the batch, scores them,
    and takes one policy-gradient step with a k3 penalty towards the reference policy. With
    `trainer.accumulate_grad_batches` K, K batches of prompts make one step, all drawn from the same policy.

    Args:
        backbone: see `PolicyModule`; starts from the exported SFT policy.
        judge: see `PolicyModule`.
        verifier: folder or hub id of the verifier; null if no reward asks it.
        rewards: name → weight of `format`, `accuracy`, `explanation` and `reward_functions`; 0 switches one off.
        reward_functions: name → ``module:function`` or ``file.py:function`` for rewards of one's own.
        explanation: how sentence probabilities become the explanation reward.
        generations_per_prompt: G, at least 2.
        sampling: of training completions.
        beta: weight of the KL penalty; 0 keeps no reference.
        evaluation, lr, betas, weight_decay, warmup, schedule: see `PolicyModule`.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        judge: Judge,
        verifier: str | None = None,
        rewards: Mapping[str, float] | None = None,
        reward_functions: Mapping[str, str] | None = None,
        explanation: ExplanationRule = ExplanationRule(),  # noqa: B008  # frozen
        generations_per_prompt: int = 16,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        beta: float = 0.04,
        evaluation: Sampling = Sampling(temperature=0.3, top_p=0.9),  # noqa: B008  # frozen
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: Schedule = "linear",
    ) -> None:
        super().__init__(backbone, judge, evaluation, lr, betas, weight_decay, warmup, schedule)
        if generations_per_prompt < 2 or sampling.temperature == 0 or sampling.top_p < 1:
            raise ValueError(
                "GRPO compares completions of one prompt: it needs generations_per_prompt ≥ 2, "
                "sampling.temperature > 0 and sampling.top_p 1 (a cut-off distribution biases the gradient)"
            )
        weights = {"format": 1.0, "accuracy": 1.0, "explanation": 1.0} if rewards is None else rewards
        self.reward = RewardSum(weights, reward_functions or {})
        if self.reward.needs_verifier and verifier is None:
            raise ValueError("the explanation reward needs model.init_args.verifier, or weight 0")
        self.verifier_path, self.rule = verifier, explanation
        self.group, self.sampling, self.beta = generations_per_prompt, sampling, beta
        self.rollouts: list[dict[str, Any]] = []
        # Not submodules: neither trains, and neither belongs into checkpoints or the optimiser.
        self._frozen: dict[str, Any] = {}

    # -- building --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Adds the verifier, checked against the data's labels, and the reference policy."""
        super().setup(stage)
        if stage != "fit":
            return
        if self.verifier_path is not None:
            verifier = EmotionVerifier.from_pretrained(self.verifier_path).requires_grad_(False).eval()
            if getattr(self.judge, "pretrained", None) == self.verifier_path:
                rank_zero_warn(
                    f"{self.verifier_path} both rewards and judges the explanations: EEA, EPC and FCR will look better "
                    "than they are. Choose another model.init_args.judge"
                )
            verifier.output_index(self.space)  # raises if it knows other labels than the data
            self._frozen["verifier"] = verifier
        if self.beta > 0 and not self.backbone.has_lora:
            self._frozen["reference"] = copy.deepcopy(self.backbone).requires_grad_(False).eval()

    def on_fit_start(self) -> None:
        """Moves the frozen models to the policy's device."""
        for model in self._frozen.values():
            model.to(self.device)

    # -- one step --------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Rollout, rewards, advantages, loss."""
        self.count_silence(batch, "train")
        # 1. Media and prompt are embedded once; sampling and the update both read these embeddings.
        embeds = self.backbone.embed(batch.prompts)
        self.backbone.eval()
        drawn = rollout(self.backbone, embeds.detach(), batch.prompts, self.group, self.sampling)
        self.backbone.train()
        # 2. Rewards and what they are worth within their group.
        completions = self._completions(batch, drawn)
        rewards, parts = self.reward(completions)
        advantages = group_advantages(rewards, self.group)
        # 3. The same tokens under the policy, with gradient, and under the reference.
        logp, entropy = self._logps(self.backbone, embeds, batch, drawn)
        ref_logp = self._reference_logps(batch, drawn)
        loss, stats = policy_loss(
            logp,
            logp.detach(),  # on-policy: the ratio is 1 and carries the gradient
            advantages.to(logp.device),
            drawn.mask,
            loss_type="grpo",
            ref_logp=ref_logp,
            beta=self.beta,
        )
        self._log_step(rewards, parts, drawn, entropy, stats, loss)
        self._keep_rollouts(batch, completions, rewards, parts, advantages)
        return loss

    def _logps(self, backbone: Backbone, embeds: Tensor, batch: ClipBatch, drawn: Rollout) -> tuple[Tensor, Tensor]:
        return completion_logps(
            backbone,
            embeds,
            batch.prompts,
            drawn.token_ids,
            drawn.mask,
            temperature=self.sampling.temperature,
            entropy=True,
            unsayable_ids=backbone.unsayable_ids,
        )

    @torch.no_grad()
    def _reference_logps(self, batch: ClipBatch, drawn: Rollout) -> Tensor | None:
        if self.beta == 0:
            return None
        frozen: Backbone | None = self._frozen.get("reference")
        context: AbstractContextManager[Backbone] = nullcontext(frozen) if frozen else self.backbone.reference()
        with context as reference:
            return self._logps(reference, reference.embed(batch.prompts), batch, drawn)[0]

    def _completions(self, batch: ClipBatch, drawn: Rollout) -> Completions:
        responses = [parse_response(text) for text in self.texts(drawn.token_ids, drawn.mask)]
        labels = [self.space.id(sample.label) for sample in batch.samples for _ in range(self.group)]
        return Completions(
            responses=responses,
            answer_ids=[self.space.id(response.answer) for response in responses],
            label_ids=labels,
            space=get_label_space(self.space.name),
            verifier=self._frozen.get("verifier"),
            rule=self.rule,
        )

    # -- what others see -------------------------------------------------------------------------------------

    def _log_step(
        self,
        rewards: Tensor,
        parts: dict[str, Tensor],
        drawn: Rollout,
        entropy: Tensor,
        stats: dict[str, Tensor],
        loss: Tensor,
    ) -> None:
        """Metrics under the names that TRL made common, prefixed with ``train/``."""
        grouped = rewards.view(-1, self.group)
        lengths = drawn.mask.sum(1).float()
        values = {
            "loss": loss.detach(),
            "reward": rewards.mean(),
            "reward_std": grouped.std(1).mean(),
            "frac_reward_zero_std": (grouped == grouped[:, :1]).all(1).float().mean(),
            "entropy": entropy.sum() / drawn.mask.sum().clamp(min=1),
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": drawn.truncated.float().mean(),
            "num_tokens": lengths.sum(),
        }
        for name, part in parts.items():
            values[f"rewards/{name}/mean"] = part.mean()
            values[f"rewards/{name}/std"] = part.std()
        values |= {name: value for name, value in stats.items() if name == "kl"}
        reward = values.pop("reward").to(self.device)
        self.log("train/reward", reward, prog_bar=True, batch_size=len(rewards), sync_dist=True)
        named = {f"train/{name}": value.to(self.device) for name, value in values.items()}
        self.log_dict(named, batch_size=len(rewards), sync_dist=True)

    def _keep_rollouts(
        self,
        batch: ClipBatch,
        completions: Completions,
        rewards: Tensor,
        parts: dict[str, Tensor],
        advantages: Tensor,
    ) -> None:
        """Rows for rollouts.jsonl; the rollout log takes them at the end of the step."""
        judged = self.judge([response.explanation for response in completions.responses], self.space)
        self.rollouts = [
            {
                "step": self.global_step,
                "id": batch.samples[index // self.group].id,
                "clip": batch.samples[index // self.group].clip,
                "label": batch.samples[index // self.group].label,
                "completion": index % self.group,
                "explanation": response.explanation,
                "answer": response.answer,
                "answer_id": completions.answer_ids[index],
                "label_id": completions.label_ids[index],
                "well_formed": response.well_formed,
                "judges": {self.judge.name: judged[index]},
                "reward": round(float(rewards[index]), 6),
                "rewards": {name: round(float(part[index]), 6) for name, part in parts.items()},
                "advantage": round(float(advantages[index]), 6),
            }
            for index, response in enumerate(completions.responses)
        ]
