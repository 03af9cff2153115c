"""Log-probabilities of completions under a policy: one definition for sampling, training and the reference.

Legend: P prompts, G completions each, N = P·G rows, T prompt tokens, C completion tokens, H width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erv_lightning.models.backbone import Backbone, PromptBatch


def log_distribution(logits: Tensor, temperature: float, unsayable_ids: Tensor | None) -> Tensor:
    """Log-probabilities (…, V) that sampling draws from.

    The temperature and the removal of unsayable tokens belong to the policy: leaving them out of the training
    forward would bias every ratio. Computed in float32 at least.

    Args:
        logits: (…, V).
        temperature: > 0.
        unsayable_ids: (K,) token ids with probability zero, or None for all tokens allowed.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    scores = scores / temperature
    if unsayable_ids is not None:
        scores = scores.index_fill(-1, unsayable_ids, float("-inf"))
    return scores.log_softmax(-1)


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
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of completion tokens given their prompts.

    Args:
        backbone: the policy (or its reference, inside `Backbone.reference`).
        prompt_embeds: (P, T, H), from `Backbone.embed`: the media towers have run once per clip.
        batch: the prompts that belong to them.
        token_ids: (N, C), the G completions of a prompt stand next to each other.
        mask: (N, C), True on real tokens.
        temperature: of the policy.
        unsayable_ids: see `log_distribution`.
        entropy: work out entropies too; zeros otherwise.

    Returns:
        Log-probabilities and entropies, both (N, C), zero where the mask is False. Entropy has no gradient.
    """
    group = token_ids.shape[0] // prompt_embeds.shape[0]
    width = prompt_embeds.shape[1]
    steps = torch.arange(token_ids.shape[1], device=token_ids.device)
    after = batch.next_position.repeat_interleave(group)[:, None] + steps  # (N, C)
    embeds = torch.cat([prompt_embeds.repeat_interleave(group, 0), backbone.embed_tokens(token_ids)], dim=1)
    positions = torch.cat([batch.position_ids.repeat_interleave(group, 1), after.expand(3, -1, -1)], dim=2)
    keys = torch.cat([batch.attention_mask.repeat_interleave(group, 0).bool(), mask.bool()], dim=1)
    # The state at position i predicts token i + 1: the prompt's last state predicts the first completion token.
    states = backbone.hidden(embeds, positions, attention_mask(keys))[:, width - 1 : -1]
    logp_NCV = log_distribution(backbone.logits(states), temperature, unsayable_ids)
    logp = logp_NCV.gather(-1, token_ids[..., None]).squeeze(-1)
    spread = torch.zeros_like(logp, requires_grad=False)
    if entropy:
        with torch.no_grad():
            # A token without probability adds nothing; 0 · −inf would be NaN.
            spread = -torch.where(logp_NCV.isfinite(), logp_NCV.exp() * logp_NCV, 0.0).sum(-1)
    zero = logp.new_zeros(())
    return torch.where(mask.bool(), logp, zero), torch.where(mask.bool(), spread, zero)
