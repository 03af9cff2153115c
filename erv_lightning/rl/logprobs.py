"""Log-probabilities of completions under a policy: one definition for sampling, training and the reference.

Legend: P prompts, G completions each, N = P·G rows, T prompt tokens, C completion tokens, K of these that are real, H
width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from erv_lightning.models.backbone import Backbone, PromptBatch
from erv_lightning.rl.packing import fed, pack
from erv_lightning.rl.prefix_attention import PackedAttention, row_multiple

# Vocabulary scores that exist at a time, (tokens of a chunk · V): 2^26 are 256 MB in float32.
CHUNK_SCORES = 2**26


def log_distribution(logits: Tensor, temperature: float, unsayable_ids: Tensor | None) -> Tensor:
    """Log-probabilities (…, V) that sampling draws from.

    The temperature and the removal of unsayable tokens belong to the policy: leaving them out of the training
    forward would bias every ratio. Computed in float32 at least.

    Args:
        logits: (…, V).
        temperature: > 0.
        unsayable_ids: (U,) token ids with probability zero, or None for all tokens allowed.
    """
    return _scores(logits, temperature, unsayable_ids).log_softmax(-1)


def attention_mask(keys: Tensor) -> Tensor:
    """Causal mask (N, 1, L, L) from which keys are real (N, L); True where a token may attend.

    A padding token sees itself, since a softmax over nothing is NaN; nobody sees it.
    """
    length = keys.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=keys.device)
    return ((causal & keys.bool()[:, None, :]) | itself)[:, None]


def completion_logps(
    backbone: Backbone,
    prompt_embeds: Tensor,
    batch: PromptBatch,
    token_ids: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    unsayable_ids: Tensor | None = None,
    entropy: bool = False,
    prefix_sharing: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of completion tokens given their prompts.

    Args:
        backbone: the policy (or its reference).
        prompt_embeds: (P, T, H), from `Backbone.embed`: the media towers have run once per clip.
        batch: the prompts that belong to them.
        token_ids: (N, C), the G completions of a prompt stand next to each other.
        mask: (N, C), True on real tokens, which stand on the left.
        temperature: of the policy.
        unsayable_ids: see `log_distribution`.
        entropy: work out entropies too; zeros otherwise.
        prefix_sharing: compute each prompt once, in one row with its completions; False computes one row per
            completion, for backbones that cannot take an attention plan. The values and gradients are the same.

    Returns:
        Log-probabilities and entropies, both (N, C), zero where the mask is False. Entropy has no gradient.
    """
    mask = mask.bool()
    forward = _packed_states if prefix_sharing else _repeated_states
    states, place = forward(backbone, prompt_embeds, batch, token_ids, mask)
    targets = token_ids.flatten()[place]
    logp, spread = token_logps(backbone, states, targets, temperature, unsayable_ids, entropy)
    zeros = logp.new_zeros(token_ids.numel())
    return zeros.index_put((place,), logp).view_as(token_ids), zeros.index_put((place,), spread).view_as(token_ids)


def _packed_states(
    backbone: Backbone, prompt_embeds: Tensor, batch: PromptBatch, token_ids: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """States (K, H) that predict the real tokens, and these tokens' places in the flattened (N, C)."""
    row = pack(
        prompt_embeds,
        batch,
        token_ids,
        mask,
        backbone.embed_tokens(fed(token_ids, mask)),
        mask.sum(1).tolist(),
        row_multiple(prompt_embeds.device),
    )
    plan = PackedAttention(row.layout, prompt_embeds.device)
    return backbone.hidden(row.embeds, row.position_ids, plan)[0].index_select(0, row.states), row.place


def _repeated_states(
    backbone: Backbone, prompt_embeds: Tensor, batch: PromptBatch, token_ids: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from one padded row per completion."""
    group = token_ids.shape[0] // prompt_embeds.shape[0]
    width = prompt_embeds.shape[1]
    steps = torch.arange(token_ids.shape[1], device=token_ids.device)
    after = batch.next_position.repeat_interleave(group)[:, None] + steps  # (N, C)
    embeds = torch.cat([prompt_embeds.repeat_interleave(group, 0), backbone.embed_tokens(token_ids)], dim=1)
    axes = batch.position_ids.shape[0]
    positions = torch.cat([batch.position_ids.repeat_interleave(group, 1), after.expand(axes, -1, -1)], dim=2)
    keys = torch.cat([batch.attention_mask.repeat_interleave(group, 0).bool(), mask], dim=1)
    # The state at position i predicts token i + 1: the prompt's last state predicts the first completion token.
    states = backbone.hidden(embeds, positions, attention_mask(keys))[:, width - 1 : -1]
    place = mask.flatten().nonzero().squeeze(1)
    return states.flatten(0, 1).index_select(0, place), place


def token_logps(
    backbone: Backbone,
    states: Tensor,
    token_ids: Tensor,
    temperature: float,
    unsayable_ids: Tensor | None,
    entropy: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (K,) of tokens (K,) from the states (K, H) that predict them.

    The scores over the vocabulary exist for one chunk of tokens at a time and are computed again in backward. Why not
    liger-kernel's fused GRPO loss: it takes the head's weight and hands back a finished loss, so it can leave out no
    unsayable tokens, gives no entropies and no log-probabilities to keep as the old ones, and it goes past adapters or
    a soft cap on the head. Here the head stays a module, and every objective sees plain log-probabilities.
    """
    vocabulary = backbone.model.get_output_embeddings().weight.shape[0]
    size = max(1, CHUNK_SCORES // vocabulary)

    def chunk(some_states: Tensor, some_ids: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _TokenLogps.apply(  # type: ignore[no-untyped-call]
            backbone.logits(some_states), some_ids, temperature, unsayable_ids, entropy
        )
        return found

    pieces = []
    for some_states, some_ids in zip(torch.split(states, size), torch.split(token_ids, size), strict=True):
        if torch.is_grad_enabled() and len(token_ids) > size:
            pieces.append(checkpoint(chunk, some_states, some_ids, use_reentrant=False, preserve_rng_state=False))
        else:  # one chunk: keeping its scores is what the chunk's size allows for
            pieces.append(chunk(some_states, some_ids))
    logp, spread = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(spread)


class _TokenLogps(torch.autograd.Function):
    """Log-probability and entropy of one token a row; the gradient is (1[token] − p)/temperature, in one pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, token_ids: Tensor, temperature: float, unsayable_ids: Tensor | None, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        scores = _scores(logits, temperature, unsayable_ids)  # (K, V)
        lse = scores.logsumexp(-1)
        logp = scores.gather(-1, token_ids[:, None]).squeeze(-1) - lse
        spread = torch.zeros_like(logp)
        if entropy:
            probs = (scores - lse[:, None]).exp()
            # H = lse − Σ p·score; a token without probability adds nothing, and 0 · −inf would be NaN
            spread = lse - (probs * scores.masked_fill(probs == 0, 0.0)).sum(-1)
        ctx.temperature, ctx.unsayable = temperature, unsayable_ids
        ctx.save_for_backward(logits, token_ids, lse)
        ctx.mark_non_differentiable(spread)
        return logp, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, token_ids, lse = ctx.saved_tensors
        grad = _scores(logits, ctx.temperature, ctx.unsayable).sub_(lse[:, None]).exp_()
        grad.mul_(-grad_logp[:, None] / ctx.temperature)
        grad.scatter_add_(1, token_ids[:, None], (grad_logp / ctx.temperature)[:, None].to(grad.dtype))
        if ctx.unsayable is not None:  # also where the token itself is unsayable: its score is a constant
            grad.index_fill_(-1, ctx.unsayable, 0.0)
        return grad.to(logits.dtype), None, None, None, None


def _scores(logits: Tensor, temperature: float, unsayable_ids: Tensor | None) -> Tensor:
    """Scores whose softmax is the policy, float32 at least; memory of its own."""
    scores = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    if unsayable_ids is not None:
        scores = scores.index_fill(-1, unsayable_ids, float("-inf"))
    return scores
