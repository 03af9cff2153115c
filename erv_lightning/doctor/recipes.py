"""The GPU-hours of docs/reproduce.md: configs/recipes on one node, all of it computed.

    python -m erv_lightning.doctor.recipes

Writes the table to standard output; a test holds the page to it. Time alone: `doctor.memory` does not know the
convolutions of HumanOmni's projector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from erv_lightning.doctor.memory import Plan, Shape
from erv_lightning.doctor.sizes import Sizes, Tower
from erv_lightning.doctor.time import DEVICES, seconds
from erv_lightning.models.humanomni import HumanOmniConfig, HumanOmniForConditionalGeneration

GPUS = 8
CLIPS = {"sft": 331, "grpo": 16701}  # EMER; DFEW and MAFW, fold 5
HELD_OUT = 0.05  # of them, for validation
TEXT_TOKENS = 90  # question, wrapper and chat format
NEW_TOKENS = 512  # of every completion, which is the most: real ones are shorter, and cost less
SPECTRUM = 3000  # frames; Whisper hears 30 s always

# Decoder: width, MLP width, layers, heads, key heads, vocabulary.
_TEXT = {"0.5b": (896, 4864, 24, 14, 2, 151936), "7b": (3584, 18944, 28, 28, 4, 152064)}
# SigLIP: width, MLP width, layers, heads, image, patch.
_VISION = {"0.5b": (768, 3072, 12, 12, 224, 16), "7b": (1152, 4304, 27, 16, 384, 14)}
_TEXT_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_VISION_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")


@dataclass(frozen=True)
class Recipe:
    """What of a recipe takes time: its name, size, stage, completions a prompt, epochs."""

    name: str
    size: str
    stage: str
    group: int
    epochs: int


RECIPES = (
    Recipe("emer_sft", "0.5b", "sft", 1, 5),
    Recipe("emer_sft", "7b", "sft", 1, 5),
    Recipe("r1_omni", "0.5b", "grpo", 16, 2),
    Recipe("erv, erv_gated, care, caemer_style", "7b", "grpo", 4, 2),
)


def config(size: str) -> HumanOmniConfig:
    """Of the published 0.5B or 7B, as far as humanomni.md and the towers' own names tell."""
    text, vision = _TEXT[size], _VISION[size]
    return HumanOmniConfig(
        text_config={
            **dict(zip(_TEXT_KEYS, text, strict=False)), "vocab_size": text[-1], "tie_word_embeddings": size == "0.5b",
        },
        vision_config={**dict(zip(_VISION_KEYS, vision, strict=False)), "patch_size": vision[-1]},
        audio_config={
            "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
        },
        projector_type="all_in_one_small" if size == "0.5b" else "all_in_one",
    )  # fmt: skip


def sizes(size: str, stage: str) -> Sizes:
    """What time depends on, from a model of shapes alone; the projectors count with the towers."""
    made = config(size)
    text, see, hear = made.text_config, made.vision_config, made.audio_config
    with torch.device("meta"):
        model = HumanOmniForConditionalGeneration(made)
    parts = {name: _count(part) for name, part in model.model.named_children()}
    layer, whole = _count(model.model.language_model.layers[0]), _count(model)
    vision, audio = parts["vision_tower"] + parts["visual_projector"], parts["audio_tower"] + parts["audio_projector"]
    frozen = parts["question_encoder"] + parts["audio_tower"] + (parts["vision_tower"] if stage == "grpo" else 0)
    head = text.hidden_size // text.num_attention_heads
    return Sizes(
        name=f"HumanOmni-{size.upper()}", hidden=text.hidden_size, layers=text.num_hidden_layers,
        heads=text.num_attention_heads, kv_heads=text.num_key_value_heads, head=head, ffn=text.intermediate_size,
        vocabulary=text.vocab_size, layer=layer, layer_active=layer,
        root=whole - vision - audio - layer * text.num_hidden_layers, parameters=whole, trained=whole - frozen,
        largest=text.vocab_size * text.hidden_size, rank=0, language_trains=True,
        vision=Tower(see.hidden_size, see.intermediate_size, see.num_hidden_layers, 4, vision, True),
        audio=Tower(hear.d_model, hear.encoder_ffn_dim, hear.encoder_layers, 2, audio, True),
        assumed="docs/reproduce.md",
    )  # fmt: skip


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def steps(recipe: Recipe) -> tuple[int, int]:
    """How many, and samples or prompts of one device in each."""
    batch = {"sft": 32, "grpo": 16}[recipe.stage]
    return recipe.epochs * math.floor(CLIPS[recipe.stage] * (1 - HELD_OUT) / batch), batch // GPUS


def step_seconds(recipe: Recipe, device: str) -> float:
    """Of one step on so many of a device, FSDP2, bfloat16 autocast."""
    made, (_, each) = config(recipe.size), steps(recipe)
    patches = made.num_frames * made.patch_grid**2
    prompt = TEXT_TOKENS + made.video_tokens + made.audio_tokens
    shape = Shape(each, recipe.group, prompt, NEW_TOKENS, 1, patches, SPECTRUM)
    plan = Plan(
        recipe.stage, 4, 2, checkpointing=True, reference=recipe.stage == "grpo", devices=GPUS, strategy="fsdp",
        cuda=True,
    )  # fmt: skip
    return sum(seconds(sizes(recipe.size, recipe.stage), shape, plan, DEVICES[device]).values())


def table() -> str:
    """GPU-hours of every recipe on 8 A100 or 8 H100."""
    lines = ["| recipe | backbone | steps | s a step, 8 × A100 | GPU-hours | s a step, 8 × H100 | GPU-hours |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for recipe in RECIPES:
        count, cells = steps(recipe)[0], ""
        for device in ("A100", "H100"):
            each = step_seconds(recipe, device)
            cells += f" {each:.1f} | {GPUS * count * each / 3600:.2g} |"
        lines.append(f"| {recipe.name} | {recipe.size.upper()} | {count} |{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
