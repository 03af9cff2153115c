"""The project's half of the step benchmark: `GRPOModule` in a Lightning trainer, one step at a time.

python -m benchmarks.our_step --prompt 512 --steps 3 --memory
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Callable, Sequence
from queue import Queue
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import text_task
from benchmarks.text_policy import TextPolicy
from erv_lightning.data.datamodule import ClipBatch, ClipDataModule
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import Sample
from erv_lightning.judges import Judge
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

    def __call__(self, explanations: Sequence[str], space: LabelSpace) -> list[int]:
        return [-1] * len(explanations)


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


class _Stop(Exception):
    """Leaves the training loop."""


class _OneStepAtATime(L.Callback):
    """Holds the training loop before each step until it is let go, and times the step."""

    def __init__(self) -> None:
        self.orders: Queue[int | None] = Queue()  # threads to compute with; None: stop
        self.answers: Queue[float | BaseException] = Queue()
        self.start = 0.0

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        threads = self.orders.get()
        if threads is None:
            raise _Stop
        torch.set_num_threads(threads)
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.answers.put(time.perf_counter() - self.start)


class OurStep:
    """One GRPO step of this project, again and again, on the same prompts.

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
        self._loop = _OneStepAtATime()
        self.trainer = L.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=1,
            max_steps=1_000_000,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[self._loop],
        )
        self._data = SamePrompts(batch)
        self._thread = threading.Thread(target=self._train, name="ours", daemon=True)

    def _train(self) -> None:
        try:
            self.trainer.fit(self.module, self._data)
        except _Stop:
            pass
        except BaseException as error:  # raised in step(), where someone sees it
            self._loop.answers.put(error)

    def step(self) -> float:
        """One whole step: generation, rewards, loss, backward, optimiser. Returns its seconds."""
        if self._thread.ident is None:
            self._thread.start()
        self._loop.orders.put(torch.get_num_threads())
        answer = self._loop.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def parts(self) -> dict[str, float]:
        """Seconds of the last step's parts."""
        return dict(self.module.clock.seconds)

    def close(self) -> None:
        """Ends the loop."""
        if self._thread.is_alive():
            self._loop.orders.put(None)
            self._thread.join()


def text_step(prompts: Sequence[Sequence[int]], group: int = text_task.GROUP, **settings: Any) -> OurStep:
    """The step on the small Qwen2 that TRL trains too."""
    policy = TextPolicy(text_task.make_model(seed=0))
    return OurStep(policy, policy.prompt_batch(prompts), group, text_task.NEW_TOKENS, **settings)


def main(make: Callable[..., OurStep] = text_step) -> None:
    """Runs this project alone and prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.our_step", description=main.__doc__)
    parser.add_argument("--prompt", type=int, default=512, help="tokens in every prompt")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak resident memory of this process, too")
    args = parser.parse_args()
    ours = make(text_task.make_prompts(args.prompts, args.prompt, seed=0))
    result: dict[str, Any] = {"seconds": [ours.step() for _ in range(args.steps)], "parts": ours.parts()}
    ours.close()
    if args.memory:
        result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(result))


if __name__ == "__main__":
    main()
