"""GRPO in float64 that takes one rollout and then, for each of many settings, an update that leaves the weights alone.

`test_grpo_step.py` runs it in its own process. As a script, started by torchrun, it is every process of a group:

    torchrun --nproc-per-node 2 tests/modules/grpo_two_processes.py POLICY CLIPS OUT
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniRMSNorm

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.judges import GrammarJudge
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.modules import GRPOModule
from erv_lightning.rl.experience import Experience
from erv_lightning.rl.objectives import LOSS_TYPES
from erv_lightning.rl.reward_terms import Completions
from erv_lightning.rl.rollout import Sampling, keyed_uniforms
from erv_lightning.rl.update import Objective

REWARDS: dict[str, Any] = {
    "rewards": {"letters": 1.0, "words": 0.5},
    "reward_functions": {"letters": f"{__file__}:letters", "words": f"{__file__}:words"},
}
LAUNCHED = 150  # seconds after which a process that was started from outside ends itself


def letters(completions: Completions) -> list[float]:
    """What a text earns depends on nothing but the text."""
    return [float(len(text) % 5) for text in completions.texts]


def words(completions: Completions) -> list[float | None]:
    """Does not apply to texts that begin with a space."""
    return [None if text[:1] == " " else float(text.count(" ") % 4) for text in completions.texts]


def some_labels(completions: Completions) -> list[float]:
    """Completions of the first four labels earn differently, those of the others all the same."""
    return [float(label < 4 and index % 2) for index, label in enumerate(completions.label_ids)]


def in_float64(backbone: Any) -> Any:
    """The same model in float64, its norms too: transformers computes those in float32, whatever the weights are."""

    def forward(norm: Qwen2_5OmniRMSNorm, hidden: Tensor) -> Tensor:
        wide: Tensor = norm.weight * hidden * (hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        return wide

    for module in backbone.double().modules():
        if isinstance(module, Qwen2_5OmniRMSNorm):
            module.forward = partial(forward, module)
    return backbone


def settings(
    loss_type: str = "grpo",
    micro: int | None = None,
    scale: str = "group",
    normalise: bool = False,
    mask_truncated: bool = False,
    share: bool = True,
) -> dict[str, Any]:
    """What one update is to be taken with, as attributes of the module."""
    return {
        "objective": Objective(loss_type, mask_truncated=mask_truncated),
        "micro_batch_prompts": micro,
        "scale_rewards": scale,
        "normalise_rewards": normalise,
        "prefix_sharing": share,
    }


class ManyUpdates(GRPOModule):
    """One rollout and an update for each setting, in float64.

    The weights stay, the policy's log-probabilities before the update are made up, far enough off for some ratios to be
    clipped, and so are the weights that the policy has left behind, so that it differs from its reference.

    Args:
        variants: name → `settings`.
        others: of `GRPOModule`.

    Attributes:
        gradients: setting → parameter → gradient.
        numbers: setting → loss (this process's share) and means over tokens.
        experience: the rollout.
        said: sample id → texts.
    """

    def __init__(self, variants: Mapping[Any, dict[str, Any]], **others: Any) -> None:
        sampling = Sampling(24, temperature=2.0)  # completions of very different length
        super().__init__(judge=GrammarJudge(), sampling=sampling, lr=0.0, max_grad_norm=None, beta=0.3, **others)
        self.variants = variants
        self.gradients: dict[Any, dict[str, Tensor]] = {}
        self.numbers: dict[Any, dict[str, float]] = {}
        self.said: dict[str, list[str]] = {}

    def configure_model(self) -> None:
        if self.policy is None:
            super().configure_model()
            if in_float64(self.backbone).has_lora:  # fresh adapters change nothing
                disturb([parameter.data for parameter in self.backbone.trainable()], 0.1)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self._reference is not None:
            disturb(self._reference.kept, 0.003)

    def _update(self, experience: Experience, advantages: Tensor) -> dict[str, float]:
        ids, texts, group = [sample.id for sample in experience.samples], experience.completions.texts, self.group
        self.said = {name: texts[i * group : (i + 1) * group] for i, name in enumerate(ids)}
        self.experience = experience
        logp = experience.drawn.logp
        noise = keyed_uniforms(ids, group, self.sampling.max_new_tokens)[:, : logp.shape[1]] - 0.5
        off = 0.4 * noise + 0.8 * noise[:, :1]  # of whole completions too, for the ratio of gspo
        for name, values in self.variants.items():
            for key, value in values.items():
                setattr(self, key, value)
            self.variant, experience.old_logp = name, logp + off
            self.numbers[name] = super()._update(experience, self._advantages(experience))
        return self.numbers[name]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        named = self.backbone.named_parameters()
        self.gradients[self.variant] = {name: p.grad.clone() for name, p in named if p.grad is not None}


def disturb(tensors: list[Tensor], by: float) -> None:
    """Adds noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors:
        tensor.add_(by * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))


def fit(module: GRPOModule, clips: SyntheticClips, root: Path, world: int = 1) -> L.Trainer:
    """One step."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        num_nodes=1,
        strategy="ddp" if world > 1 else "auto",
        max_steps=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(root),
    )
    trainer.fit(module, ClipDataModule(clips, train_split="rl", num_frames=4, frame_size=(56, 56)))
    return trainer


# -- one process or several ---------------------------------------------------------------------------------------

TOGETHER = {
    **{kind: settings(kind, micro=1) for kind in LOSS_TYPES},
    "batch": settings(micro=1, scale="batch"),
    "gdpo": settings(micro=1, normalise=True),
    "masked": settings("dapo", mask_truncated=True),
}


def run(policy: str, clips: SyntheticClips, root: Path, world: int) -> dict[str, Any]:
    """Gradients, loss shares and texts of one step on 4 prompts, then what a step that resamples leaves behind."""
    torch.manual_seed(0)

    def backbone() -> QwenOmniBackbone:
        return QwenOmniBackbone(policy, freeze=["vision", "audio"])

    sizes = {"prompts_per_step": 4, "generations_per_prompt": 4}
    many = ManyUpdates(TOGETHER, backbone=backbone, **sizes, **REWARDS)
    trainer = fit(many, clips, root, world)
    own = {"rewards": {"some": 1.0}, "reward_functions": {"some": f"{__file__}:some_labels"}}
    again = GRPOModule(backbone, GrammarJudge(), sampling=Sampling(2), resample_groups=3, beta=0.0, **sizes, **own)
    metrics = {name: float(value) for name, value in fit(again, clips, root, world).callback_metrics.items()}
    return {
        "rank": trainer.global_rank,
        "gradients": many.gradients,
        "losses": {name: numbers["loss"] for name, numbers in many.numbers.items()},
        "said": many.said,
        "resampled": {name: value for name, value in metrics.items() if "resampled" in name},
        "rows": [(row["id"], row["reward"]) for row in again.rollouts],
    }


if __name__ == "__main__":
    signal.alarm(LAUNCHED)
    torch.set_num_threads(1)
    given_policy, given_clips, out = sys.argv[1:]
    made = SyntheticClips(root=given_clips, train=28, rl=14, val=7, test=7)  # as the fixture `clips`
    found = run(given_policy, made, Path(out), world=2)
    torch.save(found, Path(out) / f"{found['rank']}.pt")
