"""The sizes of a policy, from its transformers config and a model on the `meta` device: shapes without memory.

Knows the thinkers of Qwen2.5-Omni and Qwen3-Omni. Knows no run, device or data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from erv_lightning.models.backbone import LoraSpec
from erv_lightning.models.hugging_face import Layout
from erv_lightning.models.qwen3_omni import Qwen3OmniBackbone
from erv_lightning.models.qwen_omni import QwenOmniBackbone
from erv_lightning.models.tiny import TINY, tiny_policy

# Shapes as in the models' published config.json, for use offline. Where a key is missing, transformers' own default
# holds. Qwen2_5OmniThinkerConfig() is the 7B but for its vision tower, whose width there is 3584, not 1280.
_QWEN2_5_VISION = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Omni-7B": {
        "text_config": {},
        "vision_config": {**_QWEN2_5_VISION, "out_hidden_size": 3584},
        "audio_config": {"output_dim": 3584},
    },
    "Qwen/Qwen2.5-Omni-3B": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision_config": {**_QWEN2_5_VISION, "out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "vocab_size": 152064,
        },
        "vision_config": {"out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
}


@dataclass(frozen=True)
class Tower:
    """A media tower: width, MLP width, layers, tokens that share a feature, parameters, whether it trains."""

    width: int
    ffn: int
    layers: int
    merge: int
    parameters: int
    trains: bool


@dataclass(frozen=True)
class Sizes:
    """What memory and time depend on.

    Attributes:
        name: of the model.
        hidden, layers, heads, kv_heads, head: of the decoder; head is the width of one.
        ffn: MLP width that a token passes through: of all its active experts together.
        vocabulary: V.
        layer: parameters of one decoder layer; layer_active: of these, what a token passes through.
        root: of what belongs to no layer or tower (embeddings, head, last norm).
        parameters, trained: of all; of those that get a gradient.
        largest: of the largest tensor that trains.
        rank: of the adapters, 0 without.
        language_trains: whether the decoder's own weights train.
        vision, audio: the towers.
        assumed: where the shapes are from.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    vocabulary: int
    layer: int
    layer_active: int
    root: int
    parameters: int
    trained: int
    largest: int
    rank: int
    language_trains: bool
    vision: Tower
    audio: Tower
    assumed: str

    @property
    def query(self) -> int:
        """Width of all queries of a layer."""
        return self.heads * self.head

    @property
    def kv(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.kv_heads * self.head


def _kind(pretrained: str) -> str:
    """The `model_type` that a folder's config.json names, "" where there is none."""
    path = Path(pretrained) / "config.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("model_type", "")) if path.is_file() else ""


def config_of(pretrained: str) -> tuple[Any, str]:
    """The thinker's config and where it is from: ``tiny``, a folder with config.json, or a name in `PUBLISHED`.

    Raises:
        ValueError: none of these; names it.
    """
    if pretrained == TINY:
        with torch.device("meta"):
            return tiny_policy()[0].config, "the built-in small model"
    if "humanomni" in pretrained.lower() or _kind(pretrained) == "humanomni":
        raise ValueError(
            f"{pretrained!r} is a HumanOmni model, whose sizes are not worked out here: take its first steps' "
            "train/step_time and train/perf/peak_memory_gb for a measure"
        )
    if (Path(pretrained) / "config.json").is_file():
        if "qwen3" in (Path(pretrained) / "config.json").read_text(encoding="utf-8").lower():
            return Qwen3OmniMoeThinkerConfig.from_pretrained(pretrained), f"{pretrained}/config.json"
        return Qwen2_5OmniThinkerConfig.from_pretrained(pretrained), f"{pretrained}/config.json"
    if pretrained in PUBLISHED:
        made = Qwen3OmniMoeThinkerConfig if "Qwen3" in pretrained else Qwen2_5OmniThinkerConfig
        return made(**PUBLISHED[pretrained]), f"built-in facts about {pretrained}"
    raise ValueError(
        f"no config.json in {pretrained!r}, and no built-in sizes: give a folder that holds it, or one of "
        f"{', '.join([TINY, *PUBLISHED])}"
    )


def sizes_of(pretrained: str, lora: LoraSpec | None = None, freeze: Sequence[str] = ()) -> Sizes:
    """The sizes of a policy as the backbone of these arguments would make it.

    Raises:
        ValueError: see `config_of`.
    """
    config, assumed = config_of(pretrained)
    moe = isinstance(config, Qwen3OmniMoeThinkerConfig)
    made = Qwen3OmniMoeThinkerForConditionalGeneration if moe else Qwen2_5OmniThinkerForConditionalGeneration
    layout = (Qwen3OmniBackbone if moe else QwenOmniBackbone).layout
    with torch.device("meta"):
        model: Any = made(config)
        layout.prepare(model, lora, freeze)
    return _sizes(pretrained, assumed, config, model, layout, lora)


def _count(module: Any, trained: bool = False) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not trained)


def _sizes(name: str, assumed: str, config: Any, model: Any, layout: Layout, lora: LoraSpec | None) -> Sizes:
    (language,), (vision,), (audio,) = (layout.modules(model, part) for part in ("language", "vision", "audio"))
    text, see, hear = config.text_config, config.vision_config, config.audio_config
    layer = _count(model.get_submodule(layout.decoder).layers[0])
    experts, active = getattr(text, "num_experts", 0), getattr(text, "num_experts_per_tok", 0)
    ffn, idle = text.intermediate_size, 0
    if experts:
        ffn = active * text.moe_intermediate_size
        idle = (experts - active) * 3 * text.hidden_size * text.moe_intermediate_size
    trained = [one.numel() for one in model.parameters() if one.requires_grad]
    whole, towers = _count(model), _count(vision) + _count(audio)
    return Sizes(
        name=name,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        ffn=ffn,
        vocabulary=text.vocab_size,
        layer=layer,
        layer_active=layer - idle,
        root=whole - towers - layer * text.num_hidden_layers,
        parameters=whole,
        trained=sum(trained),
        largest=max(trained, default=0),
        rank=lora.rank if lora is not None else 0,
        language_trains=lora is None and _count(language, trained=True) > 0,
        vision=Tower(
            see.hidden_size, see.intermediate_size, see.depth, see.spatial_merge_size**2,
            _count(vision), _count(vision, trained=True) > 0,
        ),
        audio=Tower(
            hear.d_model, hear.encoder_ffn_dim, hear.encoder_layers, 2, _count(audio), _count(audio, trained=True) > 0
        ),
        assumed=assumed,
    )  # fmt: skip
