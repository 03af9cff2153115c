"""HumanOmni, and with it R1-Omni and ERV, behind the `Backbone` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor

from erv_lightning.models.attention import follow_plans
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.four_bit import Quantize, reading_options
from erv_lightning.models.hugging_face import Dtype, HuggingFaceBackbone, Layout, read_pretrained
from erv_lightning.models.humanomni.modeling import HumanOmniForConditionalGeneration
from erv_lightning.models.humanomni.processing import HumanOmniProcessor
from erv_lightning.models.humanomni.prompts import AUDIO, QUESTION, VIDEO, HumanOmniPrompts

Part = Literal["vision", "audio", "projectors", "language"]


class HumanOmniBackbone(HuggingFaceBackbone):
    """`HumanOmniForConditionalGeneration` and its processor.

    BERT, which reads the question for the gate, is never trained and reads without dropout: otherwise the same clip
    would look different each time. The gate itself belongs to the projectors.

    Args:
        pretrained: a folder that `convert humanomni` wrote, or one that a run exported.
        lora: train adapters on the decoder instead of its weights.
        freeze: parts that get no gradient; the paper's cold start freezes ``audio``. With `lora` everything but the
            adapters is frozen anyway.
        dtype: of the weights; float64 is for comparing numerics.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        quantize: ``4bit`` keeps the decoder's frozen linear layers in 4 bits; see `QwenOmniBackbone`.

    Raises:
        ValueError: for a folder that is not there, or where `quantize` cannot be.
    """

    layout = Layout(
        parts={
            "vision": ("model.vision_tower",),
            "audio": ("model.audio_tower",),
            "projectors": ("model.visual_projector", "model.audio_projector"),
            "language": ("model.language_model",),
        },
        decoder="model.language_model",
        lora=r"model\.language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        untrained=r"model\.question_encoder\..*",
    )

    prompts: HumanOmniPrompts

    def __init__(
        self,
        pretrained: str,
        lora: LoraSpec | None = None,
        freeze: Sequence[Part] = (),
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        quantize: Quantize | None = None,
    ) -> None:
        kept = ("lm_head", "model.question_encoder", *self.layout.towers)
        options = reading_options(quantize, lora is not None, pretrained, kept)
        reader = partial(HumanOmniForConditionalGeneration.from_pretrained, dtype=getattr(torch, dtype), **options)
        model: Any
        model, processor = read_pretrained(pretrained, reader, HumanOmniProcessor.from_pretrained)
        follow_plans(model.model.language_model)
        super().__init__(model, processor, HumanOmniPrompts(processor), lora, freeze, gradient_checkpointing)
        for parameter in model.model.unused_parameters():
            parameter.requires_grad_(False)

    @classmethod
    def prompt_encoder(cls, **init_args: Any) -> HumanOmniPrompts:
        """Makes the same prompts as a backbone of these arguments, from its processor alone."""
        return HumanOmniPrompts.from_pretrained(init_args["pretrained"])

    def train(self, mode: bool = True) -> Self:
        """As usual, but for BERT, which stays in evaluation mode."""
        super().train(mode)
        self.model.model.question_encoder.eval()
        return self

    def media_features(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `HuggingFaceBackbone.media_features`; W is the hidden width."""
        model, dtype = self.model.model, self.model.dtype
        features: dict[str, Tensor] = {}
        if VIDEO in media:
            seen = model.get_video_features(media[VIDEO].to(dtype), *(media[name] for name in QUESTION))
            features["video"] = seen.flatten(0, 1)
        if AUDIO in media:
            features["audio"] = model.get_audio_features(media[AUDIO]).flatten(0, 1)
        return features

    def embed(self, batch: PromptBatch) -> Tensor:
        """Prompt embeddings, (P, T, H); placeholders may lie beyond the embedding, and are not looked up."""
        features = batch.features or self.read_media(batch).features
        by_token = {self.prompts.media_tokens[name]: value for name, value in features.items()}
        embeds: Tensor = self.model.model.embed(batch.input_ids, by_token, check=False)
        return embeds

    def hidden(self, embeds: Tensor, position_ids: Tensor, mask: Any, cache: Any | None = None) -> Tensor:
        """Decoder states; see `Backbone.hidden`. Qwen2 has one position a token."""
        return super().hidden(embeds, position_ids[0], mask, cache)
