"""A HumanOmni model of two hundred thousand random parameters; its tokenizer knows the built-in explanations."""

from __future__ import annotations

from pathlib import Path

import torch
from humanomni_published import bert_tokenizer
from transformers import SiglipImageProcessor, WhisperFeatureExtractor

from erv_lightning.models.humanomni import HumanOmniConfig, HumanOmniForConditionalGeneration, HumanOmniProcessor
from erv_lightning.models.tiny import policy_tokenizer

SCALE = 0.06  # of the weights: enough for every part to matter
FRAMES, IMAGE, PATCH, MELS = 2, 32, 8, 16
QUIET = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}  # BERT's own, which must not show


def processor() -> HumanOmniProcessor:
    return HumanOmniProcessor(
        SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}),
        WhisperFeatureExtractor(feature_size=MELS, chunk_length=2),
        policy_tokenizer(),
        bert_tokenizer(),
        num_frames=FRAMES,
        tokens_per_frame=4,
    )


def config(parts: HumanOmniProcessor) -> HumanOmniConfig:
    tokenizer, small = parts.tokenizer, {"initializer_range": SCALE}
    return HumanOmniConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": IMAGE, "patch_size": PATCH,
        },
        audio_config={
            "num_mel_bins": MELS, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48, "max_source_positions": 100,
        },
        question_config={
            "vocab_size": len(parts.question_tokenizer), "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 48, **QUIET, **small,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, **small,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
            "tie_word_embeddings": True,
        },
        gate_width=24,
        num_frames=FRAMES,
        video_token_id=parts.video_token_id,
        audio_token_id=parts.audio_token_id,
        initializer_range=SCALE,
    )  # fmt: skip


def write(folder: Path) -> Path:
    """Model and processor in Hugging Face's layout."""
    parts = processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HumanOmniForConditionalGeneration(config(parts))
        with torch.no_grad():  # the branches' last layers: else video hardly shows
            for name, weight in model.named_parameters():
                if "visual_projector" in name and weight.ndim > 1:
                    weight.mul_(2)
    model.save_pretrained(folder)
    parts.save_pretrained(folder)
    return folder
