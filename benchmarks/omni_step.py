"""A GRPO step of the omni policy: this project's, and the naive one that repeats the media for every completion.

The naive step is what research code on Hugging Face classes does (R1-Omni and its like): the prompt, pixels and audio
are repeated G times, `generate` samples, and one forward over all rows gives the log-probabilities from full-vocabulary
scores.

    python -m benchmarks.omni_step --side ours --frames 8 --size 112 --seconds 5
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from benchmarks import text_task
from benchmarks.our_step import OurSteps
from benchmarks.sides import Steps, Stop
from erv_lightning.data.media import Clip
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.advantages import group_advantages
from erv_lightning.rl.objectives import policy_loss

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Task:
    """What both sides do.

    Attributes:
        prompts, group, new_tokens: P clips, G completions each, of so many tokens.
        frames, size, seconds: of a clip; size in pixels.
        scale: ``tiny``: the built-in policy; ``half_billion``: random weights of Qwen2.5-0.5B's text shape with the
            towers of Qwen2.5-Omni-3B.
        device, dtype: where, and in which numbers.
    """

    prompts: int = 4
    group: int = text_task.GROUP
    new_tokens: int = text_task.NEW_TOKENS
    frames: int = 4
    size: int = 56
    seconds: float = 1.0
    scale: str = "tiny"
    device: str = "cpu"
    dtype: str = "float32"


def make_policy(task: Task) -> QwenOmniBackbone:
    """The policy, with a processor that keeps the task's pictures and sound, and no token that ends a completion."""
    backbone = QwenOmniBackbone("tiny", freeze=["vision", "audio"])
    if task.scale == "half_billion":
        _grow(backbone)
    processor = backbone.processor
    pixels = {"shortest_edge": task.size**2, "longest_edge": task.size**2}
    processor.video_processor.size = pixels
    mel = backbone.model.config.audio_config.num_mel_bins
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=mel, chunk_length=30)
    backbone.tokenizer.eos_token = backbone.tokenizer.pad_token
    backbone.model.generation_config.eos_token_id = None
    return backbone.to(device=task.device, dtype=getattr(torch, task.dtype)).train()


def _grow(backbone: QwenOmniBackbone) -> None:
    """Swaps in a network of about 0.5 billion text parameters with random weights."""
    config = backbone.model.config.to_dict()
    config["text_config"] |= {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
        "layer_types": None,
    }
    config["vision_config"] |= {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 896,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    config["audio_config"] |= {
        "num_mel_bins": 128,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "d_model": 1280,
        "output_dim": 896,
        "max_source_positions": 1500,
    }
    backbone.model = Qwen2_5OmniThinkerForConditionalGeneration(type(backbone.model.config)(**config))
    backbone.model.model.visual.requires_grad_(False)
    backbone.model.model.audio_tower.requires_grad_(False)
    backbone.register_buffer("_unsayable", backbone._find_unsayable(), persistent=False)


def make_batch(backbone: QwenOmniBackbone, task: Task) -> PromptBatch:
    """Clips of noise; their features in the policy's numbers."""
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for _ in range(task.prompts):
        frames = torch.randint(0, 256, (task.frames, 3, task.size, task.size), dtype=torch.uint8, generator=generator)
        audio = 0.1 * torch.randn(int(task.seconds * SAMPLE_RATE), generator=generator)
        clip = Clip(
            frames, audio, SAMPLE_RATE, task.frames / task.seconds, True, task.seconds, tuple(frames.shape[-2:])
        )
        prompts.append(backbone.encode_prompt("Which emotion is the most obvious?", clip))
    return backbone.collate([str(index) for index in range(task.prompts)], prompts)


class NaiveSteps:
    """GRPO steps with everything repeated for every completion.

    Args:
        backbone: the policy; trained in place.
        batch: its prompts.
        task: how many completions, how long.
    """

    def __init__(self, backbone: QwenOmniBackbone, batch: PromptBatch, task: Task) -> None:
        self.backbone, self.task = backbone, task
        self.optimizer = torch.optim.AdamW(backbone.trainable(), lr=text_task.LEARNING_RATE)
        batch = batch.to(task.device)
        group = task.group
        patches = batch.media["pixel_values_videos"]
        self.inputs = {
            "input_ids": batch.input_ids.repeat_interleave(group, 0),
            "attention_mask": batch.attention_mask.repeat_interleave(group, 0),
            "pixel_values_videos": patches.view(task.prompts, -1, patches.shape[-1])
            .repeat_interleave(group, 0)
            .flatten(0, 1),
            "video_second_per_grid": torch.full((task.prompts * group,), 2 * task.seconds / task.frames),
        }
        for name in ("video_grid_thw", "input_features", "feature_attention_mask"):
            self.inputs[name] = batch.media[name].repeat_interleave(group, 0)
        for name in ("pixel_values_videos", "input_features"):
            self.inputs[name] = self.inputs[name].to(getattr(torch, task.dtype))
        self.seconds: dict[str, float] = {}

    def step(self) -> None:
        """One whole step."""
        start = self._now()
        ids = self._generate()
        sampled = self._now()
        texts = self.backbone.tokenizer.batch_decode(ids)
        rewards = torch.tensor([sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts])
        advantages = group_advantages(rewards, self.task.group).to(self.task.device)
        logp = self._logps(ids)
        mask = torch.ones_like(logp, dtype=torch.bool)
        loss, _ = policy_loss(logp, logp.detach(), advantages, mask, loss_type="grpo")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.backbone.trainable(), text_task.GRADIENT_CLIP)
        self.optimizer.step()
        self.seconds = {"generate": sampled - start, "update": self._now() - sampled}

    @torch.no_grad()
    def _generate(self) -> Tensor:
        new = self.task.new_tokens
        self.backbone.eval()
        ids: Tensor = self.backbone.model.generate(
            **self.inputs,
            do_sample=True,
            top_k=0,
            min_new_tokens=new,
            max_new_tokens=new,
            suppress_tokens=self.backbone.unsayable_ids.tolist(),
            pad_token_id=0,
        )[:, -new:]
        self.backbone.train()
        return ids

    def _logps(self, ids: Tensor) -> Tensor:
        whole = torch.cat([self.inputs["input_ids"], ids], dim=1)
        ones = torch.ones_like(ids)
        inputs = self.inputs | {
            "input_ids": whole,
            "attention_mask": torch.cat([self.inputs["attention_mask"], ones], dim=1),
        }
        # the vocabulary at the completions' places only, as TRL asks for, where the class can do that
        logits = self.backbone.model(**inputs).logits[:, -ids.shape[1] - 1 : -1]
        logp: Tensor = logits.float().log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        return logp

    def _now(self) -> float:
        if self.task.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self, steps: Steps) -> None:
        """Takes so many steps."""
        with suppress(Stop):
            while True:
                steps.begin()
                self.step()
                steps.end(parts=self.seconds, **_cuda_memory())


def _cuda_memory() -> dict[str, float]:
    return {"cuda_gb": torch.cuda.max_memory_allocated() / 2**30} if torch.cuda.is_available() else {}


def make(side: str, task: Task) -> tuple[OurSteps | NaiveSteps, PromptBatch]:
    """One side, ready to step, and its prompts."""
    torch.manual_seed(0)
    backbone = make_policy(task)
    batch = make_batch(backbone, task)
    if task.dtype != "float32":
        batch.media = {
            name: value.to(getattr(torch, task.dtype)) if value.is_floating_point() else value
            for name, value in batch.media.items()
        }
    if side == "naive":
        return NaiveSteps(backbone, batch, task), batch
    return OurSteps(backbone, batch, task.group, task.new_tokens, "share_of_vowels", task.device), batch


def main() -> None:
    """Runs one side alone; a line of JSON for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.omni_step", description=main.__doc__)
    parser.add_argument("--side", choices=("ours", "naive"), default="ours")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="a step for every line on standard input, instead")
    for name, default in asdict(Task()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    side, count, serve = (arguments.pop(name) for name in ("side", "steps", "serve"))
    made, _ = make(side, Task(**arguments))
    made.run(Steps(None if serve else count))


if __name__ == "__main__":
    main()
