"""A Qwen3-Omni thinker of a hundred thousand random parameters, written as a released one would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from erv_lightning.data.media import Clip
from erv_lightning.models import Qwen3OmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, policy_tokenizer
from erv_lightning.rl.logprobs import attention_mask

PIXELS = {"shortest_edge": 64**2, "longest_edge": 64**2}  # 4 × 4 patches of 16
SCALE = 0.1  # of the weights: enough for every part to matter
LAYERS, WIDTH, FURTHER = 3, 64, 2


def processor() -> Qwen3OmniMoeProcessor:
    return Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(size=PIXELS, patch_size=16),
        video_processor=Qwen2VLVideoProcessor(size=PIXELS, patch_size=16, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=40, chunk_length=30),
        tokenizer=policy_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def config(tokenizer: Any) -> Qwen3OmniMoeThinkerConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    return Qwen3OmniMoeThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,  # wider than WIDTH / 4, as in the released one
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "initializer_range": SCALE,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["eos_token"],
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
            "initializer_range": SCALE,
        },
        audio_config={
            "num_mel_bins": 40,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 32,
            "output_dim": WIDTH,
            "max_source_positions": 100,
            "n_window_infer": 100,
            "downsample_hidden_size": 6,
            "initializer_range": SCALE,
        },
        position_id_per_seconds=13,
        seconds_per_chunk=2,
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_token_id=ids["audio_token"],
        vision_start_token_id=ids["vision_bos_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        initializer_range=SCALE,
        pad_token_id=ids["pad_token"],
        eos_token_id=ids["eos_token"],
    )


def write(folder: Path) -> Path:
    """Model and processor in Hugging Face's layout."""
    parts = processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3OmniMoeThinkerForConditionalGeneration(config(parts.tokenizer))
    model.save_pretrained(folder)
    parts.save_pretrained(folder)
    return folder


def plain(parts: Any, question: str, clip: Clip, mixed: bool = False) -> dict[str, Tensor]:
    """The processor's own call, as its documentation has it."""
    media: dict[str, Any] = {}
    content: list[dict[str, str]] = []
    if clip.frames is not None:
        size = dict(parts.video_processor.size)
        media["videos"] = [clip.frames]
        media["videos_kwargs"] = {"do_sample_frames": False, "fps": clip.fps, "size": size}
        content.append({"type": "video"})
    if clip.audio is not None:
        media["audio"] = [clip.audio.numpy()]
        if mixed:
            media |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
        else:
            content.append({"type": "audio"})
    content.append({"type": "text", "text": question})
    text = parts.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(parts(text=text, return_tensors="pt", **media))


def own(backbone: Qwen3OmniBackbone, batch: PromptBatch) -> Tensor:
    """Logits (P, T, V) through `embed`, `hidden` and `logits`."""
    states = backbone.hidden(backbone.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return backbone.logits(states)
