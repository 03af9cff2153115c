"""Attention that follows a plan instead of a mask, inside Hugging Face's own decoders.

A mask says which tokens see each other and leaves every other product to be computed and thrown away. A plan knows the
structure (prompts, and completions that share one) and computes what is needed. It travels where a mask would: the
decoder hands it on unread, and the attention function registered here asks it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PLANNED = "planned"  # the name under which transformers knows the attention function


class AttentionPlan(ABC):
    """How the tokens of one forward attend to each other.

    Legend: B rows, H query heads, K key heads, T tokens, S keys, D width of a head.
    """

    @abstractmethod
    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one layer.

        Args:
            module: the attention layer; `module.layer_idx` is its position.
            query: (B, H, T, D).
            key, value: (B, K, S, D), as the layer made them or as its cache returned them; K divides H.
            scale: of the products.

        Returns:
            (B, H, T, D).
        """


def planned_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | AttentionPlan | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: a plan is followed, a mask goes to transformers' own sdpa."""
    if not isinstance(attention_mask, AttentionPlan):
        done: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return done
    if dropout > 0:
        raise ValueError(
            f"attention_dropout is {dropout}: completions that share a prefix have one attention, set it to 0 "
            "in the model's config, or prefix_sharing: false"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # In mixed precision the rotary step widens queries and keys; sdpa would narrow them again by itself. Past here
    # nothing is narrowed that a plan computes in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        return attention_mask.attend(module, query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(PLANNED, planned_attention)
AttentionMaskInterface.register(PLANNED, sdpa_mask)  # for whoever calls the model with a plain 2-D mask


def follow_plans(decoder: Any) -> None:
    """Lets a transformers decoder take an `AttentionPlan` in place of a mask; masks go on working.

    Args:
        decoder: a `PreTrainedModel` whose attention layers use transformers' attention interface.
    """
    decoder.set_attn_implementation(PLANNED)
