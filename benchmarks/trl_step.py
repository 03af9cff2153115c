"""TRL's half of the step benchmark: TRL's own GRPOTrainer in its own training loop, one step at a time.

Nothing of this project's trainer is in here. Where a setting leaves the mathematics alone, the faster one is chosen for
TRL; the comments say which.

    python -m benchmarks.trl_step --prompt 512 --steps 3
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a benchmark calls nobody, TRL's usage statistics included

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks import text_task
from benchmarks.sides import Steps, Stop

PASS_TOKENS = 20_000  # of a forward and backward pass; larger ones leave the caches, smaller ones are many
END = "<end>"  # id VOCABULARY, which the model has no row for: it is never sampled, so no completion ends early


class _Stopwatch(TrainerCallback):
    """Seconds of the last step of TRL's training loop."""

    start = seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def _tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, … for ids 0, 1, …: text and ids say the same, one word a token."""
    words = {f"w{index}": index for index in range(text_task.VOCABULARY)} | {END: text_task.VOCABULARY}
    tokenizer = Tokenizer(WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="left")


def _micro_batch(completions: int, tokens: int) -> int:
    """The most completions of `tokens` tokens each that fit in one pass, a divisor of all."""
    fitting = [size for size in range(1, completions + 1) if completions % size == 0 and size * tokens <= PASS_TOKENS]
    return max(fitting, default=1)


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return text_task.share_of_even(completion_ids)


class TrlStep:
    """One GRPO step of TRL, again and again, on the same prompts.

    Args:
        model: the policy; trained in place.
        prompts: token ids, all of one length.
        beta: weight of the KL term. Above 0, TRL runs a second copy of the model as reference.
        micro_batch: completions in one forward and backward pass, the rest by gradient accumulation; a divisor of all
            completions of a step. Default: what was fastest for TRL, see `PASS_TOKENS`.
        seed: of TRL's sampling.
        **settings: more of `GRPOConfig`, over those below.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        prompts: Sequence[Sequence[int]],
        *,
        beta: float = 0.0,
        micro_batch: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trl_step_")
        if beta:  # TRL loads its reference by the model's name
            model.save_pretrained(self._folder.name)
            model.config._name_or_path = self._folder.name
        completions = len(prompts) * text_task.GROUP
        micro_batch = micro_batch or _micro_batch(completions, len(prompts[0]) + text_task.NEW_TOKENS)
        config = GRPOConfig(
            **{
                "output_dir": self._folder.name,
                "num_generations": text_task.GROUP,
                "max_completion_length": text_task.NEW_TOKENS,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 0,
                "loss_type": "grpo",
                "beta": beta,
                "epsilon": text_task.CLIP_RANGE,
                "num_iterations": 1,
                "per_device_train_batch_size": micro_batch,
                "gradient_accumulation_steps": completions // micro_batch,  # so no second pass for old log-probs
                "learning_rate": text_task.LEARNING_RATE,
                "lr_scheduler_type": "constant",
                "weight_decay": 0.0,
                "max_grad_norm": text_task.GRADIENT_CLIP,
                "optim": "adamw_torch_fused",  # the faster one on CPU, too
                "max_steps": 1,  # of each call of train()
                "seed": seed,
                "use_cpu": True,
                "bf16": False,  # float32; TRL would take bfloat16
                "gradient_checkpointing": False,  # TRL would recompute activations
                "dataloader_num_workers": 0,
                "dataloader_pin_memory": False,
                "logging_strategy": "no",
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
            }
            | settings
        )
        self._stopwatch = _Stopwatch()
        texts = [" ".join(f"w{token}" for token in prompt) for prompt in prompts]
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=_reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=_tokenizer(),
            callbacks=[self._stopwatch],
        )
        self.trainer.remove_callback(PrinterCallback)

    def step(self) -> float:
        """One whole step: generation, rewards, loss, backward, optimiser. Returns its seconds.

        It is TRL's training loop, entered for one step: model and optimiser go on where they were, and what TRL sets up
        on entering is not counted. In the caller's thread, since two threads that compute with OpenMP slow each other
        down even where they take turns.
        """
        self.trainer.train()
        return self._stopwatch.seconds

    def facts(self) -> dict[str, float]:
        """What TRL itself holds of the last step, to check that it did the work."""
        inputs, log = self.trainer._buffered_inputs, self.trainer.state.log_history[-1]
        return {
            "prompt_length": inputs[0]["prompt_ids"].shape[1],
            "prompt_tokens": sum(int(batch["prompt_mask"].sum()) for batch in inputs),
            "completions": sum(len(batch["completion_ids"]) for batch in inputs),
            "generated_tokens": sum(int(batch["completion_mask"].sum()) for batch in inputs),
            "reward_std": log["reward_std"],
            "groups_without_signal": log["frac_reward_zero_std"],
            "loss": log["train_loss"],
            "entropy": log["entropy"],
        }

    def close(self) -> None:
        """Removes TRL's folder."""
        self._folder.cleanup()


def main() -> None:
    """Runs TRL alone; a line of JSON for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_step", description=main.__doc__)
    parser.add_argument("--prompt", type=int, default=512, help="tokens in every prompt")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="a step for every line on standard input, instead")
    parser.add_argument("--micro-batch", type=int, default=None, help="completions in one pass")
    parser.add_argument("--beta", type=float, default=0.0)
    args = parser.parse_args()

    prompts = text_task.make_prompts(args.prompts, args.prompt, seed=0)
    trl = TrlStep(text_task.make_model(seed=0), prompts, beta=args.beta, micro_batch=args.micro_batch)
    steps = Steps(None if args.serve else args.steps)
    with suppress(Stop):
        while True:
            steps.begin()
            seconds = trl.step()
            steps.end(seconds, **trl.facts())
    trl.close()


if __name__ == "__main__":
    main()
