"""The project's half of the step benchmark: `GRPOModule` in a Lightning trainer, one step at a time.

python -m benchmarks.our_step --prompt 512 --steps 3 --memory
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import text_task
from benchmarks.sides import Steps, Stop
from benchmarks.text_policy import TextPolicy
from erv_lightning.data.datamodule import ClipBatch, ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import Sample
from erv_lightning.judges import Judge, Verdicts
from erv_lightning.labels import DFEW, LabelSpace
from erv_lightning.models.backbone import Backbone, PromptBatch
from erv_lightning.modules import GRPOModule
from erv_lightning.rl.reward_terms import Completions
from erv_lightning.rl.rollout import Sampling


def share_of_even(completions: Completions) -> Tensor:
    """The reward of both halves, from the completions' text."""
    ids = [[int(word[1:]) for word in text.split()] for text in completions.texts]
    return torch.tensor(text_task.share_of_even(ids))


def share_of_vowels(completions: Completions) -> Tensor:
    """A reward for any text."""
    return torch.tensor([sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions.texts])


class NoJudge(Judge):
    """Reads nothing: random words convey no emotion."""

    name = "none"

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        return Verdicts([-1] * len(explanations))


class SamePrompts(ClipDataModule):
    """The same batch of prompts for every step."""

    def __init__(self, batch: PromptBatch) -> None:
        super().__init__(SyntheticClips())
        samples = [
            Sample(id=name, dataset="text", clip="", question="", label_space=DFEW.name, label="happy", split="train")
            for name in batch.ids
        ]
        self.batch = ClipBatch(samples, batch, [])
        self._samples = {"train": samples}

    def prepare_data(self) -> None:
        """Nothing to make."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.batch] * 1000, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([], batch_size=None)


class _OneStepAtATime(L.Callback):
    """Holds the training loop before each step until it may go on, and times the step."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self.steps.begin()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any, **__: Any) -> None:
        memory = {"cuda_gb": module.clock.metrics(0)["perf/peak_memory_gb"]} if torch.cuda.is_available() else {}
        self.steps.end(parts=dict(module.clock.seconds), **memory)


class OurSteps:
    """GRPO steps of this project on the same prompts, again and again.

    Args:
        backbone: the policy; trained in place.
        batch: its prompts.
        group: completions a prompt.
        new_tokens: tokens of each.
        reward: a function of this file.
        device: ``cpu`` or ``cuda``.
        **settings: more of `GRPOModule`.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: PromptBatch,
        group: int,
        new_tokens: int,
        reward: str = "share_of_even",
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        self.module = GRPOModule(
            lambda: backbone,
            NoJudge(),
            **{
                "rewards": {reward: 1.0},
                "reward_functions": {reward: f"benchmarks.our_step:{reward}"},
                "prompts_per_step": len(batch.ids),
                "generations_per_prompt": group,
                "sampling": Sampling(new_tokens),
                "beta": 0.0,
                "lr": text_task.LEARNING_RATE,
                "max_grad_norm": text_task.GRADIENT_CLIP,
                "schedule": "constant",
            }
            | settings,
        )
        self._data = SamePrompts(batch)
        self._device = device

    def run(self, steps: Steps) -> None:
        """Trains for so many steps."""
        trainer = L.Trainer(
            accelerator="gpu" if self._device == "cuda" else self._device,
            devices=1,
            max_steps=1_000_000,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[_OneStepAtATime(steps)],
        )
        with suppress(Stop):
            trainer.fit(self.module, self._data)


def text_steps(prompts: Sequence[Sequence[int]], group: int = text_task.GROUP, **settings: Any) -> OurSteps:
    """Steps on the small Qwen2 that TRL trains too."""
    policy = TextPolicy(text_task.make_model(seed=0))
    return OurSteps(policy, policy.prompt_batch(prompts), group, text_task.NEW_TOKENS, **settings)


def main() -> None:
    """Runs this project alone; a line of JSON for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.our_step", description=main.__doc__)
    parser.add_argument("--prompt", type=int, default=512, help="tokens in every prompt")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="a step for every line on standard input, instead")
    args = parser.parse_args()
    text_steps(text_task.make_prompts(args.prompts, args.prompt, seed=0)).run(Steps(None if args.serve else args.steps))


if __name__ == "__main__":
    main()
