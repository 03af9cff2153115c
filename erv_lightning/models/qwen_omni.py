"""Qwen2.5-Omni's thinker as a backbone: the 3B, the 7B and the built-in small one run through these lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from erv_lightning.models.attention import follow_plans
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.four_bit import Quantize, reading_options
from erv_lightning.models.hugging_face import Dtype, HuggingFaceBackbone, Layout, Part, read_pretrained
from erv_lightning.models.qwen_prompts import QwenOmniPrompts
from erv_lightning.models.tiny import TINY, tiny_policy


class QwenOmniBackbone(HuggingFaceBackbone):
    """`Qwen2_5OmniThinkerForConditionalGeneration` and its processor behind the `Backbone` protocol.

    Args:
        pretrained: a folder or hub id in Hugging Face's layout, or ``tiny`` for the built-in small model.
        lora: train adapters on the decoder instead of its weights.
        freeze: parts that get no gradient. With `lora` everything but the adapters is frozen anyway.
        dtype: of the weights; float64 is for comparing numerics.
        seed: of the weights of ``tiny``; no meaning elsewhere.
        gradient_checkpointing: recompute decoder activations in the backward pass to save memory.
        use_audio_in_video: sound and picture take turns in the prompt, two seconds at a time, instead of all frames
            coming before all sound. No meaning where one of them is not read.
        quantize: ``4bit`` keeps the decoder's frozen linear layers in 4 bits (QLoRA): with `lora`, on CUDA, without
            FSDP2. The export has the rounded weights at full size.

    Raises:
        ValueError: for a folder that is not there, or where `quantize` cannot be.
    """

    layout = Layout(
        parts={
            "vision": ("model.visual",),
            "audio": ("model.audio_tower",),
            "language": ("model.language_model",),
        },
        decoder="model.language_model",
        lora=r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        # The thinker never reads it, and DDP stops at a parameter that trains without a gradient.
        untrained=r"model\.audio_tower\.audio_bos_eos_token\..*",
    )

    prompts: QwenOmniPrompts

    def __init__(
        self,
        pretrained: str = TINY,
        lora: LoraSpec | None = None,
        freeze: Sequence[Part] = (),
        dtype: Dtype = "float32",
        seed: int = 0,
        gradient_checkpointing: bool = False,
        use_audio_in_video: bool = False,
        quantize: Quantize | None = None,
    ) -> None:
        options = reading_options(quantize, lora is not None, pretrained, ("lm_head", *self.layout.towers))
        model: Any
        if pretrained == TINY:
            model, processor = tiny_policy(seed)
            model.to(getattr(torch, dtype))
        else:
            reader = partial(
                Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained, dtype=getattr(torch, dtype), **options
            )
            processor, model = read_pretrained(pretrained, Qwen2_5OmniProcessor.from_pretrained, reader)
        follow_plans(model.model.language_model)
        prompts = QwenOmniPrompts(processor, model.config, use_audio_in_video)
        super().__init__(model, processor, prompts, lora, freeze, gradient_checkpointing)

    @classmethod
    def prompt_encoder(cls, **init_args: Any) -> QwenOmniPrompts:
        """Makes the same prompts as a backbone of these arguments, from its processor and configuration alone."""
        names = {"pretrained", "use_audio_in_video"}
        return QwenOmniPrompts.from_pretrained(**{name: init_args[name] for name in names & init_args.keys()})

    def media_features(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `HuggingFaceBackbone.media_features`; W is the hidden width."""
        thinker = self.model.model
        features: dict[str, Tensor] = {}
        if "pixel_values_videos" in media:
            seen = thinker.get_video_features(media["pixel_values_videos"], media["video_grid_thw"])
            features["video"] = torch.cat(seen.pooler_output)
        if "input_features" in media:
            mel = media["input_features"].to(self.model.dtype)
            features["audio"] = thinker.get_audio_features(mel, media["feature_attention_mask"]).last_hidden_state
        return features
