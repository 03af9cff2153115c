"""Stage 3: GRPO with format, accuracy and explanation rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from erv_lightning.data.clips import ClipBatch
from erv_lightning.errors import outside
from erv_lightning.judges import Judge, judge_each
from erv_lightning.models.backbone import Backbone, PromptFeatures
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules.optimisation import Schedule, adamw
from erv_lightning.modules.policy import PolicyModule
from erv_lightning.parallel import gathered, whole
from erv_lightning.rl import telemetry
from erv_lightning.rl.advantages import group_advantages, normalised_sum, zero_std_groups
from erv_lightning.rl.answers import answer_logp
from erv_lightning.rl.experience import Experience
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.records import rollout_rows, step_metrics
from erv_lightning.rl.reference import KeptWeights, as_reference
from erv_lightning.rl.reward_terms import Completions, ExplanationRule, Rewards, RewardSum
from erv_lightning.rl.rollout import Rollout, Sampling, keyed_uniforms, rollout
from erv_lightning.rl.stopwatch import Stopwatch
from erv_lightning.rl.update import Objective, StepCounts, TokenMeans, micro_batches
from erv_lightning.text import parse_response


class GRPOModule(PolicyModule):
    """Group relative policy optimisation (method.md, stage 3).

    A training batch is one rollout: `generations_per_prompt` completions for every prompt, scored and weighed against
    each other, then `updates_per_rollout` optimiser steps. The gradient depends neither on `micro_batch_prompts` nor on
    the number of processes (unless `resample_groups` has other prompts drawn). Optimisation is manual in Lightning's
    sense: `trainer.max_steps` counts optimiser steps, `trainer.val_check_interval` rollouts;
    `trainer.gradient_clip_val` and `accumulate_grad_batches` do not apply.

    Args:
        backbone: see `PolicyModule`; starts from the exported SFT policy.
        judge: see `PolicyModule`.
        verifier: folder or hub id of the verifier; null if no reward asks it.
        rewards: name → weight of the built-in rewards and `reward_functions`; 0 switches one off.
        reward_functions: name → ``module:function`` or ``file.py:function`` for rewards of one's own.
        explanation: which labels a sentence conveys, for the explanation rewards.
        overlong_buffer: the last tokens before the limit, in which the reward `overlong` makes length cost; null: a
            quarter of `sampling.max_new_tokens`.
        prompts_per_step: prompts of a rollout, all processes together; a multiple of their number.
        generations_per_prompt: G, at least 2.
        micro_batch_prompts: prompts whose completions are in memory at a time during the update; null: all.
        updates_per_rollout: optimiser steps on the same completions, against the log-probabilities of the first.
        sampling: of training completions.
        objective: the loss and its clipping.
        scale_rewards: what advantages are divided by: the deviation within the ``group``, of the whole ``batch``, or
            ``none``.
        normalise_rewards: normalise each reward within its group before adding them up (GDPO), then the sum over the
            batch; `scale_rewards` then has no say.
        resample_groups: how often, at most, prompts whose completions all earn the same are replaced by others.
        beta: weight of the KL penalty; 0 keeps no reference.
        reference_decay: the reference follows the policy as a moving average with this decay per rollout (GRPO-CARE);
            null: it stays the policy before training.
        max_grad_norm: gradients are scaled down to this norm; null leaves them as they are.
        evaluation, lr, betas, weight_decay, warmup, schedule, prefix_sharing: see `PolicyModule`.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        judge: Judge,
        verifier: str | None = None,
        rewards: Mapping[str, float] | None = None,
        reward_functions: Mapping[str, str] | None = None,
        explanation: ExplanationRule = ExplanationRule(),  # noqa: B008  # frozen
        overlong_buffer: int | None = None,
        prompts_per_step: int = 16,
        generations_per_prompt: int = 16,
        micro_batch_prompts: int | None = None,
        updates_per_rollout: int = 1,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        objective: Objective = Objective(),  # noqa: B008  # frozen
        scale_rewards: Literal["group", "batch", "none"] = "group",
        normalise_rewards: bool = False,
        resample_groups: int = 0,
        beta: float = 0.04,
        reference_decay: float | None = None,
        max_grad_norm: float | None = 1.0,
        evaluation: Sampling = Sampling(temperature=0.3, top_p=0.9),  # noqa: B008  # frozen
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: Schedule = "linear",
        prefix_sharing: bool = True,
    ) -> None:
        super().__init__(backbone, judge, evaluation, lr, betas, weight_decay, warmup, schedule, prefix_sharing)
        self.automatic_optimization = False
        if generations_per_prompt < 2 or sampling.temperature == 0 or sampling.top_p < 1:
            raise ValueError(
                "GRPO compares completions of one prompt: it needs generations_per_prompt ≥ 2, "
                "sampling.temperature > 0 and sampling.top_p 1 (a cut-off distribution biases the gradient)"
            )
        limits = {
            "prompts_per_step": (prompts_per_step, 1, None),
            "micro_batch_prompts": (micro_batch_prompts, 1, None),
            "updates_per_rollout": (updates_per_rollout, 1, None),
            "overlong_buffer": (overlong_buffer, 1, sampling.max_new_tokens),
            "resample_groups": (resample_groups, 0, None),
            "beta": (beta, 0, None),
            "reference_decay": (reference_decay, 0, 1),
        }
        wrong = outside(limits)
        if max_grad_norm is not None and max_grad_norm <= 0:  # in Lightning 0 means no clipping, here no training
            wrong.append(f"max_grad_norm is {max_grad_norm}, it must be above 0; null leaves gradients as they are")
        if wrong:
            raise ValueError(f"model.init_args: {'; '.join(wrong)}")
        weights = {"format": 1.0, "accuracy": 1.0, "explanation": 1.0} if rewards is None else rewards
        self.reward = RewardSum(weights, reward_functions or {})
        if self.reward.needs_verifier and verifier is None:
            raise ValueError("the explanation reward needs model.init_args.verifier, or weight 0")
        self.verifier_path, self.rule, self.overlong_buffer = verifier, explanation, overlong_buffer
        self.prompts_per_step, self.group = prompts_per_step, generations_per_prompt
        self.micro_batch_prompts, self.updates_per_rollout = micro_batch_prompts, updates_per_rollout
        self.sampling, self.objective, self.beta = sampling, objective, beta
        self.scale_rewards, self.normalise_rewards = scale_rewards, normalise_rewards
        self.resample_groups, self.reference_decay = resample_groups, reference_decay
        self.max_grad_norm = max_grad_norm
        self.rollouts: list[dict[str, Any]] = []
        self.decode_seconds = 0.0  # the data clock's reading
        self.clock = Stopwatch(torch.device("cpu"))
        # Not a submodule: it does not train, and belongs neither into checkpoints nor into the optimiser.
        self._frozen: dict[str, EmotionVerifier] = {}
        self._reference: KeptWeights | None = None

    # -- building --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Adds the verifier, checked against the data's labels, and the reference policy."""
        super().setup(stage)
        if stage != "fit":
            return
        self._share_prompts()
        # Before a checkpoint is read: the reference is the policy before training. With LoRA that is the policy with
        # its adapters off.
        if self._needs_reference and not (self.backbone.has_lora and self.reference_decay is None):
            self._reference = KeptWeights(self.backbone.trainable())
            if self.resample_groups and self.device_mesh is not None:
                raise ValueError(
                    "sharded processes exchange the policy and its reference together, but each resamples prompts of "
                    "its own: set model.init_args.resample_groups: 0, or beta: 0, or use LoRA"
                )
        if self.verifier_path is not None:
            verifier = EmotionVerifier.from_pretrained(self.verifier_path).requires_grad_(False).eval()
            if getattr(self.judge, "pretrained", None) == self.verifier_path:
                rank_zero_warn(
                    f"{self.verifier_path} both rewards and judges the explanations: EEA, EPC and FCR will look better "
                    "than they are. Choose another model.init_args.judge"
                )
            for space in self.data.label_spaces().values():
                self.rule.thresholds(verifier, space)  # raises if it lacks what the rule asks for
                verifier.output_index(space)  # raises if it knows other labels than the data
            self._frozen["verifier"] = verifier
        self._emotion_words = telemetry.emotion_words(*self.data.label_spaces().values())

    def _share_prompts(self) -> None:
        """Each process's part of a step's prompts becomes its batch."""
        world = self.trainer.world_size
        if self.prompts_per_step % world:
            raise ValueError(
                f"model.init_args.prompts_per_step is {self.prompts_per_step}, which {world} processes cannot share "
                f"evenly: take a multiple of {world}"
            )
        share = self.prompts_per_step // world
        if self.data.batch_size not in (None, share):
            raise ValueError(
                f"data.batch_size is {self.data.batch_size}: GRPO's batch is model.init_args.prompts_per_step "
                f"({self.prompts_per_step}, all processes together), leave data.batch_size out"
            )
        self.data.batch_size = share
        if str(self.trainer.precision) == "16-mixed":
            raise ValueError("GRPO does not scale its loss for float16: use trainer.precision bf16-mixed")

    @property
    def _needs_reference(self) -> bool:
        return self.beta > 0 or self.reward.needs_reference_answers

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what the backbone trains."""
        return adamw(
            self,
            self.backbone.trainable(),
            steps_per_batch=self.updates_per_rollout,
            **self.optimisation,  # type: ignore[arg-type]
        )

    def on_fit_start(self) -> None:
        """Moves the verifier and what is kept of the reference to the policy's device."""
        for model in self._frozen.values():
            model.to(self.device)
        if self._reference is not None:
            self._reference.to(self.device)
        self.clock = Stopwatch(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A reference that follows the policy belongs to the state; one that stays comes from the SFT export."""
        if self._reference is not None and self.reference_decay is not None:
            checkpoint["reference"] = self._reference.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        if self._reference is not None and "reference" in checkpoint:
            self._reference.load_state_dict(checkpoint["reference"])

    # -- one step --------------------------------------------------------------------------------------------

    def training_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Rollout, rewards, advantages, updates."""
        rollout_step = self.global_step  # which updates count on
        self.clock.reset()
        self.clock.add("decode", self.decode_seconds)
        # 1. Completions and what they earn, with the weights gathered once.
        with gathered(self.backbone):
            experience, resampled = self._collect(batch)
        # 2. What they are worth within their group.
        advantages = self._advantages(experience)
        # 3. Updates on the same completions.
        with self.clock("update"):
            updates = [self._update(experience, advantages) for _ in range(self._updates_left())]
            if self._reference is not None and self.reference_decay is not None:
                self._reference.follow(self.reference_decay)
        # 4. What others see.
        with self.clock("judge"):
            explanations = [one.explanation for one in experience.completions.responses]
            judged = judge_each(self.judge, explanations, experience.completions.spaces)
        self._report(experience, judged, updates, resampled)
        self.rollouts = rollout_rows(experience, advantages, judged, self.judge.name, rollout_step)

    def _updates_left(self) -> int:
        """Updates of this rollout; fewer than usual where `trainer.max_steps` ends the run among them."""
        most = self.trainer.max_steps
        return self.updates_per_rollout if most < 0 else min(self.updates_per_rollout, most - self.global_step)

    def _idle(self, earned: Rewards) -> Tensor:
        """(P,), prompts whose completions have nothing to learn from."""
        if not self.normalise_rewards:
            return zero_std_groups(earned.total, self.group, earned.applicable)
        each = [zero_std_groups(part, self.group, ~part.isnan()) for part in earned.parts.values()]
        return torch.stack(each).all(0)

    def _collect(self, batch: ClipBatch) -> tuple[Experience, dict[str, float]]:
        """Completions of the batch's prompts; prompts that teach nothing are replaced, as often as is allowed."""
        experience = self._draw(batch, "0")
        replaced, rounds, silent, bad = 0, 0, list(batch.silent), list(batch.bad)
        while rounds < self.resample_groups:
            idle = self._idle(experience.earned)
            # every process goes through the same rounds, whether it needs them or not
            if not self.trainer.strategy.reduce_boolean_decision(bool(idle.any()), all=False):
                break
            rounds += 1
            if not idle.any():
                continue
            key = f"{self.global_step}/{self.global_rank}/{rounds}"
            with self.clock("decode"):
                fresh = self.data.draw(int(idle.sum()), key).to(self.device)
            silent, bad = silent + fresh.silent, bad + fresh.bad
            other = self._draw(fresh, str(rounds))
            useful = ~self._idle(other.earned)
            replaced += int(useful.sum())
            # in the order: prompts that teach, new ones that do, and of the rest as many as are missing
            chosen = [*(~idle).nonzero().flatten().tolist(), *idle.nonzero().flatten().tolist()]
            keep = len(experience.prompts) - int(useful.sum())
            experience = Experience.join(
                [experience.pick(chosen[:keep]), other.pick(useful.nonzero().flatten().tolist())]
            )
        self.count_flaws(ClipBatch(batch.samples, batch.prompts, silent, bad), "train")
        return experience, {"resampled/groups": float(replaced), "resampled/rounds": float(rounds)}

    @torch.no_grad()
    def _draw(self, batch: ClipBatch, key: str) -> Experience:
        """Completions for every prompt of a batch, and their rewards."""
        self.backbone.eval()
        with self.clock("generate"):
            # The towers run once per clip: for sampling, the reference and the update, unless the update trains them.
            prompts = self.backbone.read_media(batch.prompts)
            drawn = rollout(
                self.backbone,
                self.backbone.embed(prompts),
                prompts,
                self.group,
                self.sampling,
                uniforms=self._uniforms(batch, key),
                prefix_sharing=self.prefix_sharing,
            )
        features = self.backbone.split(batch.prompts if self.backbone.trains_media else prompts)
        ref_logp = None
        if self._needs_reference:
            with self.clock("reference"):
                ref_logp = self._reference_logps(features, drawn)
        with self.clock("reward"):
            completions = self._completions(batch, drawn, ref_logp)
            earned = self.reward(completions)
        self.backbone.train()
        return Experience(batch.samples, features, drawn, completions, earned, ref_logp if self.beta > 0 else None)

    def _uniforms(self, batch: ClipBatch, key: str) -> Tensor:
        """Random numbers for sampling, (N, max_new_tokens): a pure function of seed, step and sample.

        So a resumed run draws what the uninterrupted one would have drawn, and several processes what one would.
        """
        keys = [f"{torch.initial_seed()}/{self.global_step}/{key}/{sample.id}" for sample in batch.samples]
        return keyed_uniforms(keys, self.group, self.sampling.max_new_tokens).to(self.device)

    def _completions(self, batch: ClipBatch, drawn: Rollout, ref_logp: Tensor | None) -> Completions:
        texts = self.texts(drawn.token_ids, drawn.mask)
        responses = [parse_response(text) for text in texts]
        answers = None
        if self.reward.needs_reference_answers and ref_logp is not None:
            answers = answer_logp(self.backbone.decode, drawn.token_ids, drawn.mask, ref_logp)
        samples = [sample for sample in batch.samples for _ in range(self.group)]
        spaces = [sample.space for sample in samples]
        return Completions(
            responses=responses,
            answer_ids=[space.id(response.answer) for space, response in zip(spaces, responses, strict=True)],
            label_ids=[space.id(sample.label) for space, sample in zip(spaces, samples, strict=True)],
            space=spaces,
            verifier=self._frozen.get("verifier"),
            rule=self.rule,
            texts=texts,
            group_size=self.group,
            lengths=drawn.mask.sum(1).cpu(),
            max_new_tokens=self.sampling.max_new_tokens,
            answer_logp=answers,
            overlong_buffer=self.overlong_buffer,
        )

    def _reference_logps(self, features: list[PromptFeatures], drawn: Rollout) -> Tensor:
        """Log-probabilities (N, C) under the reference, a micro-batch at a time."""
        with as_reference(self.backbone, self._reference):
            parts = []
            for prompts in micro_batches(len(features), self.micro_batch_prompts):
                rows = slice(prompts.start * self.group, prompts.stop * self.group)
                parts.append(
                    self._logps(features[prompts.start : prompts.stop], drawn.token_ids[rows], drawn.mask[rows])[0]
                )
        return torch.cat(parts)

    def _logps(
        self, features: Sequence[PromptFeatures], token_ids: Tensor, mask: Tensor, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        batch = self.backbone.collate([str(index) for index in range(len(features))], features)
        return completion_logps(
            self.backbone,
            self.backbone.embed(batch),
            batch,
            token_ids,
            mask,
            temperature=self.sampling.temperature,
            unsayable_ids=self.backbone.unsayable_ids,
            entropy=entropy,
            prefix_sharing=self.prefix_sharing,
        )

    def _advantages(self, experience: Experience) -> Tensor:
        """(N,) of this process; where they depend on the whole batch, on that of all processes."""
        earned = experience.earned
        total, applicable, parts = earned.total, earned.applicable, earned.parts
        whole = self.normalise_rewards or self.scale_rewards == "batch"
        if whole and self.trainer.world_size > 1:
            together = torch.stack([total, applicable.float(), *parts.values()]).to(self.device)
            rows = self._gather(together).transpose(0, 1).flatten(1).cpu()  # (2 + rewards, all completions)
            total, applicable = rows[0], rows[1].bool()
            parts = dict(zip(parts, rows[2:], strict=True))
        if self.normalise_rewards:
            advantages = normalised_sum(parts, self.reward.weights, self.group, applicable=applicable)
        else:
            advantages = group_advantages(total, self.group, scale=self.scale_rewards, applicable=applicable)
        own = len(earned.total)
        begin = self.global_rank * own if len(advantages) > own else 0
        return advantages[begin : begin + own].to(self.device)

    # -- the update ------------------------------------------------------------------------------------------

    def _update(self, experience: Experience, advantages: Tensor) -> dict[str, float]:
        """One optimiser step; returns its numbers."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        mask = experience.drawn.mask
        if self.objective.mask_truncated:
            mask = mask & ~experience.drawn.truncated[:, None]
        tokens = self.trainer.strategy.reduce(mask.sum(), reduce_op="sum")
        world = self.trainer.world_size
        counts = StepCounts(len(mask) * world, int(tokens), self.sampling.max_new_tokens)
        means, old, loss = TokenMeans(), [], torch.zeros((), device=self.device)
        pieces = list(micro_batches(len(experience.prompts), self.micro_batch_prompts))
        for prompts in pieces:
            last = prompts is pieces[-1]
            with nullcontext() if last else self._unsynced():
                share, logp = self._micro_batch(experience, advantages, mask, prompts, counts, means)
                # strategies average gradients over processes, and the counts are those of all
                self.manual_backward(share * world)
            loss += share.detach()
            old.append(logp)
        if experience.old_logp is None:
            experience.old_logp = torch.cat(old)
        norm = self._clip()
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        return {"loss": float(loss), "grad_norm": norm, **means.means()}

    def _micro_batch(
        self,
        experience: Experience,
        advantages: Tensor,
        mask: Tensor,
        prompts: range,
        counts: StepCounts,
        means: TokenMeans,
    ) -> tuple[Tensor, Tensor]:
        """The loss of some prompts, and their log-probabilities without gradient."""
        rows = slice(prompts.start * self.group, prompts.stop * self.group)
        drawn = experience.drawn
        logp, entropy = self._logps(
            experience.prompts[prompts.start : prompts.stop], drawn.token_ids[rows], drawn.mask[rows], entropy=True
        )
        # In the first update the ratio is 1 and carries the gradient.
        old_logp = logp.detach() if experience.old_logp is None else experience.old_logp[rows]
        loss, stats = counts.loss(
            self.objective,
            logp,
            old_logp,
            advantages[rows],
            mask[rows],
            None if experience.ref_logp is None else experience.ref_logp[rows],
            self.beta,
        )
        tokens = int(mask[rows].sum())
        away = (logp.detach() - drawn.logp[rows]).abs()
        for name, value in (("entropy", entropy), ("sampling/logp_difference", away)):
            stats[name] = torch.where(mask[rows], value, 0.0).sum() / max(1, tokens)
        means.add(stats, tokens)
        return loss, logp.detach()

    def _unsynced(self) -> AbstractContextManager[Any]:
        """Gradients of this backward stay in this process until the next one."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _gather(self, value: Tensor) -> Tensor:
        """The tensors of all processes, (processes, …)."""
        gathered = cast("Tensor", self.all_gather(value))
        return gathered if self.trainer.world_size > 1 else gathered[None]

    def _clip(self) -> float:
        """Scales the gradients down to `max_grad_norm`; returns their norm before."""
        parameters = [parameter for parameter in self.backbone.trainable() if parameter.grad is not None]
        norm = whole(get_total_norm(parameter.grad for parameter in parameters))  # type: ignore[misc]
        # left alone where it is not finite: the guard names the parameters at fault
        if self.max_grad_norm is not None and bool(norm.isfinite()):
            clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        return float(norm)

    # -- what others see -------------------------------------------------------------------------------------

    def _report(
        self,
        experience: Experience,
        judged: list[int],
        updates: list[dict[str, float]],
        resampled: dict[str, float],
    ) -> None:
        """Metrics under the names that TRL and verl made common, prefixed with ``train/``."""
        values = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
        values |= step_metrics(experience, judged, self._emotion_words)
        if self.resample_groups:
            values |= resampled
        values |= self.clock.metrics(int(values["num_tokens"]))
        names = sorted(values)
        rows = self._gather(torch.tensor([values[name] for name in names], device=self.device))
        values = telemetry.over_processes(names, rows.cpu())
        count = len(judged)
        self.log("train/reward", values.pop("reward"), prog_bar=True, batch_size=count)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=count)
