"""Sampling completions: each clip and prompt is read once, then G rows go on from it.

Knows token ids and a backbone; knows no text, reward or data set.
Legend: P prompts, G completions each, N = P·G rows, T prompt tokens, C completion tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erv_lightning.models.backbone import Backbone, PromptBatch
from erv_lightning.rl.decoding import Decoder, RepeatedPromptDecoder, SharedPrefixDecoder
from erv_lightning.rl.logprobs import log_distribution

# How often the rows that have ended are looked for, in tokens, and how many must go for the others to move together.
# On CUDA looking waits for the device, and moving means capturing a new graph.
_LOOK_EVERY = {"cpu": 1, "cuda": 16}
_MOVE_BELOW = {"cpu": 0.85, "cuda": 0.5}
# Capturing costs about as much as a few plain steps.
_GRAPH_FROM = 16


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


@torch.no_grad()
def rollout(
    backbone: Backbone,
    prompt_embeds: Tensor,
    batch: PromptBatch,
    group: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    uniforms: Tensor | None = None,
    prefix_sharing: bool = True,
) -> Rollout:
    """Draws `group` completions for every prompt.

    Args:
        backbone: the policy.
        prompt_embeds: (P, T, H), from `Backbone.embed`.
        batch: the prompts that belong to them.
        group: G, completions per prompt.
        sampling: length, temperature, nucleus.
        generator: random state on the embeddings' device; None uses torch's global one.
        uniforms: (N, max_new_tokens), random numbers in [0, 1) to draw each token with, in place of the generator's:
            a completion then depends on its own numbers alone, whatever else is in the batch.
        prefix_sharing: keep a prompt's keys and values once for all its completions; False copies them for each, with
            a plain mask, for backbones that cannot take an attention plan.
    """
    device, room = prompt_embeds.device, sampling.max_new_tokens
    # 1. One prefill per prompt.
    decoder: Decoder
    if prefix_sharing:
        graph = room >= _GRAPH_FROM
        decoder = SharedPrefixDecoder(backbone, prompt_embeds, batch, group, room - 1, graph)
    else:
        decoder = RepeatedPromptDecoder(backbone, prompt_embeds, batch, group, room - 1)
    # 2. Token by token, until every row has ended.
    total = prompt_embeds.shape[0] * group
    token_ids = torch.full((total, room), backbone.pad_token_id, device=device)
    logp = torch.zeros(total, room, dtype=_float(decoder.logits), device=device)
    if uniforms is None:
        uniforms = torch.rand(total, room, generator=generator, device=device)
    rows = torch.arange(total, device=device)  # which completions the decoder's rows are
    alive = torch.ones(total, dtype=torch.bool, device=device)
    for step in range(room):
        token, token_logp = _draw(decoder.logits, sampling, backbone.unsayable_ids, uniforms[rows, step])
        token = torch.where(alive, token, backbone.pad_token_id)
        token_ids[rows, step] = token
        logp[rows, step] = torch.where(alive, token_logp, 0.0)
        alive = alive & (token != backbone.eos_token_id)
        if step + 1 == room:
            break
        if (step + 1) % _LOOK_EVERY.get(device.type, 1) == 0:
            if not alive.any():
                break
            # 3. Rows that have ended leave as soon as enough of them have.
            if (staying := _staying(alive, group, _MOVE_BELOW.get(device.type, 0.85))) is not None:
                prompts, kept = staying
                decoder.keep(prompts, kept)
                rows, alive, token, group = rows[kept], alive[kept], token[kept], len(kept) // len(prompts)
        decoder.step(token)
    # 4. What is real: up to and including the end-of-response token.
    ends = token_ids == backbone.eos_token_id
    truncated = ~ends.any(1)
    lengths = torch.where(truncated, room, ends.int().argmax(1) + 1)
    longest = int(lengths.max())
    mask = torch.arange(longest, device=device) < lengths[:, None]
    return Rollout(token_ids[:, :longest], mask, logp[:, :longest], truncated)


def keyed_uniforms(keys: Sequence[str], group: int, tokens: int) -> Tensor:
    """Random numbers in [0, 1) for `rollout`, (len(keys)·group, tokens): those of a key are a pure function of it."""
    numbers = []
    for key in keys:
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest())
        numbers.append(torch.rand(group, tokens, generator=torch.Generator().manual_seed(seed)))
    return torch.cat(numbers)


def _staying(alive: Tensor, group: int, below: float) -> tuple[Tensor, Tensor] | None:
    """Prompts (P',) and rows (P'·G',) to go on with, or None while most rows are still needed.

    Every prompt keeps as many rows as the one with the most unfinished ones, so that groups stay of one size.
    """
    alive_PG = alive.view(-1, group)
    counts = alive_PG.sum(1)
    prompts = counts.nonzero().squeeze(1)
    most = int(counts.max())
    if len(prompts) * most > below * len(alive):
        return None
    unfinished_first = alive_PG[prompts].int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return prompts, (prompts[:, None] * group + unfinished_first).flatten()


def _float(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _draw(logits: Tensor, sampling: Sampling, unsayable_ids: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row, (N,), and its log-probability before any nucleus, (N,)."""
    greedy = sampling.temperature == 0
    logp = log_distribution(logits, 1.0 if greedy else sampling.temperature, unsayable_ids)  # (N, V)
    if greedy:
        token = logp.argmax(-1)
    else:
        probs = logp.exp()
        if sampling.top_p < 1:
            probs = _nucleus(probs, sampling.top_p)
        token = _invert(probs, uniform)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The first token (N,) whose cumulated probability exceeds the row's random number in [0, 1).

    In float64, in which a rare token among 150,000 keeps its share. A token of probability 0 is never the first.
    """
    cumulated = probs.double().cumsum(-1)
    reach = uniform.double() * cumulated[:, -1]  # the sum: a nucleus is not renormalised
    token = torch.searchsorted(cumulated, reach[:, None], right=True).squeeze(-1)
    return token.clamp(max=probs.shape[-1] - 1)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose mass reaches top_p; (N, V), not renormalised."""
    ordered, index = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs).scatter(-1, index, torch.where(before < top_p, ordered, 0.0))
