"""What the tests of every backbone draw and score. Knows no backbone of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from erv_lightning.models import HuggingFaceBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Rollout, Sampling, rollout

GROUP = 3


def lively(backbone: HuggingFaceBackbone) -> HuggingFaceBackbone:
    """The same with adapters that change something, in evaluation mode: fresh ones do not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.trainable():
            parameter.normal_(std=0.2, generator=generator)
    return backbone.eval()


def draw(backbone: HuggingFaceBackbone, batch: PromptBatch, shared: bool = True) -> Rollout:
    """Completions that end at different times."""
    bias = torch.zeros(backbone.model.config.text_config.vocab_size)
    bias[backbone.eos_token_id] = 6.0
    hook = backbone.model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias.to(logits))
    generator = torch.Generator().manual_seed(0)
    drawn = rollout(backbone, backbone.embed(batch), batch, GROUP, Sampling(10), generator, prefix_sharing=shared)
    hook.remove()
    return drawn


def logps(backbone: HuggingFaceBackbone, batch: PromptBatch, drawn: Rollout, packed: bool) -> Tensor:
    """Log-probabilities of completions, (N, C)."""
    logp, _ = completion_logps(
        backbone,
        backbone.embed(batch),
        batch,
        drawn.token_ids,
        drawn.mask,
        unsayable_ids=backbone.unsayable_ids,
        prefix_sharing=packed,
    )
    return logp
