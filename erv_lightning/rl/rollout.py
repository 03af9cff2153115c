"""Sampling completions: each clip and prompt is read once, then G rows go on from its key-value cache.

Knows token ids and a backbone; knows no text, reward or data set.
Legend: P prompts, G completions each, N = P·G rows, T prompt tokens, C completion tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from erv_lightning.models.backbone import Backbone, PromptBatch
from erv_lightning.rl.logprobs import attention_mask, log_distribution


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_new_tokens: longest completion, in tokens.
        temperature: 0 takes the likeliest token. Training needs > 0.
        top_p: nucleus mass in (0, 1]. Train with 1: a truncated distribution biases the policy gradient.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"max_new_tokens ≥ 1, temperature ≥ 0 and 0 < top_p ≤ 1 are needed, got {self}")


@dataclass
class Rollout:
    """Sampled completions.

    Attributes:
        token_ids: (N, C), padded on the right; the G completions of a prompt stand next to each other.
        mask: (N, C) bool, True up to and including the end-of-response token.
        logp: (N, C) float, log-probability of each token under the policy that sampled it, 0 on padding.
        truncated: (N,) bool, True where no end-of-response token came in time.
    """

    token_ids: Tensor
    mask: Tensor
    logp: Tensor
    truncated: Tensor


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types
    """A cache layer with its final size reserved: growing by concatenation copies the whole cache per token."""

    def __init__(self, prefilled: Any, group: int, room: int) -> None:
        super().__init__()
        self.length = prefilled.keys.shape[-2]
        self._keys = self._reserve(prefilled.keys, group, room)
        self._values = self._reserve(prefilled.values, group, room)
        self.dtype, self.device = self._keys.dtype, self._keys.device
        self.is_initialized = True

    def _reserve(self, prefilled: Tensor, group: int, room: int) -> Tensor:
        rows, heads, length, width = prefilled.shape
        reserved = prefilled.new_empty(rows * group, heads, length + room, width)
        reserved[:, :, :length] = prefilled.repeat_interleave(group, 0)
        return reserved

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + keys.shape[-2]
        self._keys[:, :, start : self.length] = keys
        self._values[:, :, start : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return int(self.length)


@torch.no_grad()
def rollout(
    backbone: Backbone,
    prompt_embeds: Tensor,
    batch: PromptBatch,
    group: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Draws `group` completions for every prompt.

    Args:
        backbone: the policy.
        prompt_embeds: (P, T, H), from `Backbone.embed`.
        batch: the prompts that belong to them.
        group: G, completions per prompt.
        sampling: length, temperature, nucleus.
        generator: random state on the embeddings' device; None uses torch's global one.
    """
    device = prompt_embeds.device
    rows, room = prompt_embeds.shape[0] * group, sampling.max_new_tokens
    # 1. One prefill per prompt.
    cache = DynamicCache()
    mask = attention_mask(batch.attention_mask)
    state = backbone.hidden(prompt_embeds, batch.position_ids, mask, cache)[:, -1:]
    logits = backbone.logits(state)[:, 0].repeat_interleave(group, 0)  # (N, V)
    # 2. Its cache, G times, with room for the completion.
    cache.layers = [_RoomyLayer(layer, group, room) for layer in cache.layers]
    keys = batch.attention_mask.bool().repeat_interleave(group, 0)
    keys = torch.cat([keys, keys.new_ones(rows, room)], dim=1)[:, None, None]  # (N, 1, 1, T + room)
    position = batch.next_position.repeat_interleave(group).expand(3, -1)[..., None]  # (3, N, 1)
    # 3. Token by token, until every row has ended.
    token_ids = torch.full((rows, room), backbone.pad_token_id, device=device)
    logp = torch.zeros(rows, room, device=device)
    lengths = torch.full((rows,), room, device=device)
    alive = torch.ones(rows, dtype=torch.bool, device=device)
    width = batch.input_ids.shape[1]
    for step in range(room):
        token, token_logp = _draw(logits, sampling, backbone.unsayable_ids, generator)
        token_ids[alive, step] = token[alive]
        logp[alive, step] = token_logp[alive]
        ended = alive & (token == backbone.eos_token_id)
        lengths[ended] = step + 1
        alive &= ~ended
        if step + 1 == room or not alive.any():
            break
        embeds = backbone.embed_tokens(token[:, None])
        state = backbone.hidden(embeds, position + step, keys[..., : width + step + 1], cache)
        logits = backbone.logits(state)[:, 0]
    longest = int(lengths.max())
    real = torch.arange(longest, device=device) < lengths[:, None]
    return Rollout(token_ids[:, :longest], real, logp[:, :longest], alive)


def _draw(
    logits: Tensor, sampling: Sampling, unsayable_ids: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One token a row, (N,), and its log-probability before any nucleus, (N,)."""
    greedy = sampling.temperature == 0
    logp = log_distribution(logits, 1.0 if greedy else sampling.temperature, unsayable_ids)  # (N, V)
    if greedy:
        token = logp.argmax(-1)
    else:
        probs = logp.exp()
        if sampling.top_p < 1:
            probs = _nucleus(probs, sampling.top_p)
        token = torch.multinomial(probs, 1, generator=generator).squeeze(-1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose mass reaches top_p; (N, V), not renormalised."""
    ordered, index = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs).scatter(-1, index, torch.where(before < top_p, ordered, 0.0))
