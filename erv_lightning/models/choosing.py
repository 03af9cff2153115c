"""Which backbone reads a model that somebody names: a folder or hub id in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

import erv_lightning.models as backbones
from erv_lightning.models.backbone import Backbone
from erv_lightning.models.tiny import TINY

# `model_type` of a config.json → class of this package. What a hub id holds whole, thinker and talker, and the
# thinker alone, as our exports are.
OF_TYPE = {
    "qwen2_5_omni": "QwenOmniBackbone",
    "qwen2_5_omni_thinker": "QwenOmniBackbone",
    "qwen3_omni_moe": "Qwen3OmniBackbone",
    "qwen3_omni_moe_thinker": "Qwen3OmniBackbone",
    "humanomni": "HumanOmniBackbone",
}


def backbone_class(pretrained: str) -> type[Backbone]:
    """The class that reads a model.

    Args:
        pretrained: ``tiny``, a folder or a hub id.

    Raises:
        ValueError: there is no such model, or none of ours reads it.
    """
    if pretrained == TINY:
        return backbones.QwenOmniBackbone
    if Path(pretrained).is_dir() and not (Path(pretrained) / "config.json").is_file():
        raise ValueError(f"no config.json in {pretrained!r}: name a run, an exported model or a hub id")
    try:
        kind = AutoConfig.from_pretrained(pretrained).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"no policy in {pretrained!r}, neither as a folder nor on the hub: {error}") from error
    if kind not in OF_TYPE:
        raise ValueError(f"{pretrained!r} is a {kind} model; one of these is needed: {', '.join(sorted(OF_TYPE))}")
    made: type[Backbone] = getattr(backbones, OF_TYPE[kind])
    return made
