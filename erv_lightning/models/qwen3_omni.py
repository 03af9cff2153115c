"""Qwen3-Omni's thinker as a backbone: a mixture of experts whose first layers see the picture once more.

Its picture tower gives, beside the features that stand in the prompt, N further ones (DeepStack, arXiv 2406.04334).
They are added to what comes out of the decoder's first N layers, at the picture's places. They travel within the
embeddings: a row is W = H·(1 + N) wide, zero past H for text and sound, and `hidden` takes it apart again. So packing,
sampling and caching need not know of them.

Legend: H hidden width, N further features, W = H·(1 + N).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)
from transformers.masking_utils import sdpa_mask

from erv_lightning.models.attention import AttentionPlan, planned_attention
from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.four_bit import Quantize
from erv_lightning.models.hugging_face import Dtype, HuggingFaceBackbone, Layout, Part, read_pretrained
from erv_lightning.models.qwen3_prompts import Qwen3OmniPrompts

BY_KEYWORD = "planned_by_keyword"  # the name under which transformers knows the attention function below


class Qwen3OmniBackbone(HuggingFaceBackbone):
    """`Qwen3OmniMoeThinkerForConditionalGeneration` and its processor behind the `Backbone` protocol.

    The experts of a layer are two tensors of three dimensions, which adapters for linear layers do not reach: LoRA is
    on the attention's projections alone. The router never trains, and there is no auxiliary loss that balances the
    experts: of a router that stays as it is, it would say nothing.

    Experts are computed by transformers' ``grouped_mm``: all of a layer's in one product, on the CPU as on CUDA, with
    sums in a fixed order, and in no loop over the experts that were hit, which no CUDA graph could replay. It knows no
    float64; there it is ``eager``.

    Args:
        pretrained: a folder or hub id in Hugging Face's layout.
        lora: train adapters on the decoder's attention instead of its weights.
        freeze: parts that get no gradient. With `lora` everything but the adapters is frozen anyway.
        dtype: of the weights; float64 is for comparing numerics.
        gradient_checkpointing: recompute decoder activations in the backward pass to save memory.
        use_audio_in_video: sound and picture stand in the prompt sorted by time, instead of all frames coming before
            all sound. No meaning where one of them is not read.
        quantize: None; ``4bit`` is refused, see below.

    Raises:
        ValueError: for a folder that is not there. With `quantize`: bitsandbytes packs linear layers, and 29 of the
            model's 32 billion parameters are experts, which are none.
    """

    layout = Layout(
        parts={
            "vision": ("model.visual",),
            "audio": ("model.audio_tower",),
            "language": ("model.language_model",),
        },
        decoder="model.language_model",
        lora=r".*language_model\.layers\..*\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        untrained=r"model\.language_model\.layers\..*\.mlp\.gate\.weight",  # routers
    )

    prompts: Qwen3OmniPrompts

    def __init__(
        self,
        pretrained: str,
        lora: LoraSpec | None = None,
        freeze: Sequence[Part] = (),
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        use_audio_in_video: bool = False,
        quantize: Quantize | None = None,
    ) -> None:
        if quantize is not None:
            raise ValueError(
                "quantize: 4bit saves nothing here: Qwen3-Omni's experts are no linear layers, which are all that "
                "bitsandbytes packs. Leave it out, and share the weights out with configs/trainer/fsdp.yaml"
            )
        reader = partial(
            Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained,
            dtype=getattr(torch, dtype),
            experts_implementation="eager" if dtype == "float64" else "grouped_mm",
        )
        processor, model = read_pretrained(pretrained, Qwen3OmniMoeProcessor.from_pretrained, reader)
        model.model.language_model.set_attn_implementation(BY_KEYWORD)
        prompts = Qwen3OmniPrompts(processor, model.config, use_audio_in_video)
        super().__init__(model, processor, prompts, lora, freeze, gradient_checkpointing)
        self.width = int(model.config.text_config.hidden_size)  # H
        self.further = len(model.config.vision_config.deepstack_visual_indexes)  # N

    @classmethod
    def prompt_encoder(cls, **init_args: Any) -> Qwen3OmniPrompts:
        """Makes the same prompts as a backbone of these arguments, from its processor and configuration alone."""
        names = {"pretrained", "use_audio_in_video"}
        return Qwen3OmniPrompts.from_pretrained(**{name: init_args[name] for name in names & init_args.keys()})

    def media_features(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `HuggingFaceBackbone.media_features`; the further features stand side by side after the first."""
        thinker = self.model.model
        features: dict[str, Tensor] = {}
        if "pixel_values_videos" in media:
            seen = thinker.get_video_features(media["pixel_values_videos"], media["video_grid_thw"])
            layers = [seen.pooler_output, *seen.deepstack_features]  # each in one piece a clip
            features["video"] = torch.cat([torch.cat(layer) for layer in layers], dim=-1)
        if "input_features" in media:
            mel = media["input_features"].to(self.model.dtype)
            heard = thinker.get_audio_features(mel, media["feature_attention_mask"]).last_hidden_state
            features["audio"] = self._widened(heard)
        return features

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, any shape → (…, W)."""
        return self._widened(super().embed_tokens(token_ids))

    def _widened(self, rows: Tensor) -> Tensor:
        """(…, H) → (…, W): no further features."""
        return nn.functional.pad(rows, (0, self.width * self.further))

    def hidden(
        self, embeds: Tensor, position_ids: Tensor, mask: Tensor | AttentionPlan, cache: Any | None = None
    ) -> Tensor:
        """Decoder states (rows, tokens, H) of embeddings (rows, tokens, W); see `Backbone.hidden`."""
        further: dict[str, Any] = {}
        if embeds.shape[1] > 1:  # one token alone is text: a step of sampling has no picture to add
            # zeros are added to text too: to look for the picture's places would make a GPU wait
            further["visual_pos_masks"] = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            further["deepstack_visual_embeds"] = torch.split(embeds[..., self.width :].flatten(0, 1), self.width, -1)
        if isinstance(mask, AttentionPlan):
            # This decoder looks at its mask, and leaves one of four dimensions alone.
            further["plan"], mask = mask, torch.empty(1, 1, 0, 0, dtype=torch.bool, device=embeds.device)
        states: Tensor = self.decoder(
            inputs_embeds=embeds[..., : self.width],
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **further,
        ).last_hidden_state
        return states


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`planned_attention` for a decoder through which a plan travels beside the mask."""
    return planned_attention(module, query, key, value, attention_mask if plan is None else plan, **kwargs)


AttentionInterface.register(BY_KEYWORD, _attention)
AttentionMaskInterface.register(BY_KEYWORD, sdpa_mask)  # for whoever calls the model with a plain 2-D mask
