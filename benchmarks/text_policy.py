"""A text-only policy behind the project's `Backbone`, so that its GRPO can be measured on the model that TRL trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM

from erv_lightning.data.media import Clip
from erv_lightning.models.attention import AttentionPlan, follow_plans
from erv_lightning.models.backbone import Backbone, PromptBatch, PromptFeatures


class TextPolicy(Backbone):
    """A Qwen2 whose words are w0, w1, …; prompts are token ids, and nothing ends a completion early.

    Args:
        model: trained in place.
    """

    eos_token_id, pad_token_id = -1, 0
    max_audio_seconds = 0.0
    trains_media = False

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        super().__init__()
        self.model = model
        follow_plans(model.model)

    @property
    def unsayable_ids(self) -> Tensor:
        return torch.zeros(0, dtype=torch.long, device=self.model.device)

    def prompt_batch(self, prompts: Sequence[Sequence[int]]) -> PromptBatch:
        """A batch from token ids."""
        features = [PromptFeatures(torch.tensor(prompt), torch.arange(len(prompt))[None], {}) for prompt in prompts]
        return self.collate([str(index) for index in range(len(prompts))], features)

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        width = max(len(prompt.input_ids) for prompt in prompts)

        def padded(rows: list[Tensor]) -> list[Tensor]:
            return [nn.functional.pad(row, (width - row.shape[-1], 0)) for row in rows]

        return PromptBatch(
            list(ids),
            torch.stack(padded([prompt.input_ids for prompt in prompts])),
            torch.stack(padded([torch.ones_like(prompt.input_ids) for prompt in prompts])),
            torch.stack(padded([prompt.position_ids for prompt in prompts]), dim=1),
        )

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        lengths = batch.attention_mask.sum(1).tolist()
        return [
            PromptFeatures(batch.input_ids[p, -length:], batch.position_ids[:, p, -length:], {})
            for p, length in enumerate(lengths)
        ]

    def read_media(self, batch: PromptBatch) -> PromptBatch:
        return batch

    def embed(self, batch: PromptBatch) -> Tensor:
        return self.embed_tokens(batch.input_ids)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        embeds: Tensor = self.model.model.embed_tokens(token_ids)
        return embeds

    def hidden(
        self, embeds: Tensor, position_ids: Tensor, mask: Tensor | AttentionPlan, cache: Any | None = None
    ) -> Tensor:
        states: Tensor = self.model.model(
            inputs_embeds=embeds,
            position_ids=position_ids[0],
            attention_mask={"full_attention": mask},
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"w{token}" for token in token_ids)

    def trainable(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def tokenize(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        raise ValueError("a text policy reads no clips")

    def reference(self) -> AbstractContextManager[Backbone]:
        raise ValueError("no adapters to switch off")

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
