"""The task that GRPO benchmarks share: a small random Qwen2, random prompts of one length, a cheap reward, a scale.

Knows neither trainer. Both halves of a benchmark take model, prompts, reward and settings from here, so that they
differ in nothing but whose code runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1400  # ids 0 to VOCABULARY - 1, all of them words
GROUP = 8  # completions a prompt
NEW_TOKENS = 64  # in every completion: no id ends one
LEARNING_RATE = 1e-4
CLIP_RANGE = 0.2  # ε of the ratio
GRADIENT_CLIP = 1.0  # norm


def make_model(seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised policy, float32, without dropout; equal seeds give equal weights."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        attention_dropout=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        dtype="float32",
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def make_prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Prompts of exactly `length` random token ids."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[list[int]] = torch.randint(0, VOCABULARY, (count, length), generator=generator).tolist()
    return ids


def share_of_even(completions: Sequence[Sequence[int]]) -> list[float]:
    """The reward: how many of a completion's ids are even, 0 to 1."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completions]
