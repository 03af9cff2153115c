"""The published configuration of a HumanOmni checkpoint, and those of its towers, as a `HumanOmniConfig`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from erv_lightning.models.humanomni.configuration import PROJECTORS, HumanOmniConfig

NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
QWEN2 = (  # the keys that are the language model's; the others are the projector's, or training's
    *NEEDED,
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


@dataclass(frozen=True)
class Tower:
    """A model in front of the language model.

    Attributes:
        key: of the published configuration, whose value is its folder or hub id; "" where it has none.
        default: its folder or hub id without that.
        option: of the command line, which goes before.
        kind: of its configuration.
    """

    key: str
    default: str
    option: str
    kind: type[Any]


TOWERS = {
    "vision": Tower("mm_vision_tower", "", "--vision-tower", SiglipVisionConfig),
    "audio": Tower("mm_audio_tower", "", "--audio-tower", WhisperConfig),
    "question": Tower("", "bert-base-uncased", "--question-encoder", BertConfig),
}


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        FileNotFoundError, ValueError: it is not there, or cannot be read.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    return content


def tower_folders(source: Path, published: Mapping[str, Any], given: Mapping[str, Path]) -> dict[str, Path]:
    """Where each tower's configuration is.

    Args:
        source: the published folder; a name may also be one of a folder within it.
        published: its configuration.
        given: ``vision``, ``audio`` or ``question`` → folder, as far as the user named them.

    Raises:
        FileNotFoundError: towers whose configuration is not at hand, all of them, and the option for each.
    """
    found, problems = {}, []
    for name, tower in TOWERS.items():
        said = str(published.get(tower.key) or tower.default)
        places = [given[name]] if name in given else [Path(said), source / said] if said else []
        here = [place for place in places if (place / "config.json").is_file()]
        if here:
            found[name] = here[0]
        elif name in given:
            problems.append(f"{tower.option} {given[name]} has no config.json")
        else:
            named = f"{tower.key or 'its name'} is {said!r}, which is no folder here" if said else f"no {tower.key}"
            problems.append(f"the {name} tower's configuration is not at hand ({named}): give {tower.option} DIR")
    if problems:
        raise FileNotFoundError("; ".join(problems))
    return found


def make_config(
    published: Mapping[str, Any], folders: Mapping[str, Path], gate_width: int, placeholders: Mapping[str, int]
) -> HumanOmniConfig:
    """A checkpoint's configuration in our layout.

    Args:
        published: its own.
        folders: of its towers, see `tower_folders`.
        gate_width: inner width of the gate's MLP.
        placeholders: token ids by ``video`` and ``audio``.

    Raises:
        ValueError: what is missing, unknown or does not fit together, all of it.
    """
    problems = [f"{key} is missing" for key in NEEDED if key not in published]
    projector = published.get("mm_projector_type")
    if projector not in PROJECTORS:
        problems.append(f"mm_projector_type is {projector!r}, one of {', '.join(PROJECTORS)} is needed")
    if (audio := published.get("mm_audio_projector_type") or "mlp2x_gelu") != "mlp2x_gelu":
        problems.append(f"mm_audio_projector_type is {audio!r}, mlp2x_gelu is needed")
    towers = {}
    for name, tower in TOWERS.items():
        try:
            towers[name] = _tower(folders[name], tower)
        except ValueError as error:
            problems.append(str(error))
    if "vision" in towers and published.get("mm_hidden_size") not in (None, towers["vision"].hidden_size):
        problems.append(
            f"mm_hidden_size is {published['mm_hidden_size']}, but the vision tower in {folders['vision']} is "
            f"{towers['vision'].hidden_size} wide"
        )
    if problems:
        raise ValueError("the configuration cannot be used: " + "; ".join(problems))
    return HumanOmniConfig(
        **{f"{name}_config": config for name, config in towers.items()},
        text_config=Qwen2Config(**{key: published[key] for key in QWEN2 if key in published}),
        projector_type=projector,
        vision_select_layer=published.get("mm_vision_select_layer", -2),
        gate_width=gate_width,
        num_frames=published.get("num_frames") or 8,
        video_token_id=placeholders["video"],
        audio_token_id=placeholders["audio"],
    )


def _tower(folder: Path, tower: Tower) -> Any:
    """A tower's configuration.

    Raises:
        ValueError: the folder holds another model's.
    """
    content = read_config(folder)
    own = content.get(tower.kind.base_config_key, content)  # SigLIP's picture half, where the folder holds it whole
    found = own.get("model_type", tower.kind.model_type)
    if found != tower.kind.model_type:
        raise ValueError(f"{folder} holds a {found}, but {tower.option} is for a {tower.kind.model_type}")
    return tower.kind.from_dict(own)
