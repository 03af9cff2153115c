"""Published HumanOmni checkpoints (HumanOmni, R1-Omni, ERV): what their tensors are called, and where they lie."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# How published names begin, and ours. No beginning is that of another, so that either way is unique.
PREFIXES: dict[str, str] = {
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "lm_head.": "lm_head.",
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.audio_tower.audio_tower.encoder.": "model.audio_tower.",
    "model.audio_projector.": "model.audio_projector.mlp.",
    "model.bert_model.": "model.question_encoder.",
    "model.bert_gate.": "model.visual_projector.gate.",
    "model.mm_projector.mlp_2xgelu_face.": "model.visual_projector.face.mlp.",
    **{
        f"model.mm_projector.{part}_{branch}.": f"model.visual_projector.{branch}.{part}."
        for part in ("s1", "sampler", "s2", "readout")
        for branch in ("video", "body")
    },
}
# The classifier that Whisper was loaded with, and buffers that older versions of transformers kept: nothing reads them.
DROPPED = (
    "model.audio_tower.audio_tower.projector.",
    "model.audio_tower.audio_tower.classifier.",
    "model.audio_tower.audio_tower.layer_weights",
)
DROPPED_ENDS = (".rotary_emb.inv_freq", ".embeddings.position_ids", ".embeddings.token_type_ids")
TIED = "lm_head.weight"  # by both names; not there, or the same as the embedding, where a checkpoint ties them

BROKEN = (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError)


def our_name(published: str) -> str | None:
    """Our name of a published tensor; None for one that is not known."""
    for theirs, ours in PREFIXES.items():
        if published.startswith(theirs):
            return ours + published.removeprefix(theirs)
    return None


def published_name(ours: str) -> str:
    """The published name of one of our tensors."""
    for theirs, prefix in PREFIXES.items():
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    raise KeyError(ours)


def is_dropped(published: str) -> bool:
    """Whether a published tensor is left behind."""
    return published.startswith(DROPPED) or published.endswith(DROPPED_ENDS)


class PublishedWeights:
    """The tensors of a folder, mapped from its files: what is not asked for takes no memory.

    Args:
        folder: with ``model.safetensors`` or ``pytorch_model.bin``, or shards of either and their index.

    Raises:
        FileNotFoundError: there are no weights, or a shard is missing.
        ValueError: a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._read: dict[str, Callable[[], Tensor]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in _files(folder):
            try:
                for name, shape, read in _tensors(path):
                    self.shapes[name], self._read[name] = shape, read
            except BROKEN as error:
                raise ValueError(f"{path} cannot be read, it may be incomplete: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> Tensor:
        return self._read[name]()


def _files(folder: Path) -> list[Path]:
    """The weight files of a folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if missing := [shard for shard in shards if not (folder / Path(shard).name).is_file()]:
                raise FileNotFoundError(f"{index} names files that are not there: {', '.join(missing)}")
            return [folder / Path(shard).name for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    raise FileNotFoundError(f"{folder} holds no weights: model.safetensors or pytorch_model.bin, whole or in shards")


def _tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Name, shape and reader of each tensor in a file."""
    if path.suffix == ".safetensors":
        held: Any = safe_open(path, framework="pt")
        for name in held.keys():  # noqa: SIM118 - no mapping
            yield name, tuple(held.get_slice(name).get_shape()), partial(held.get_tensor, name)
        return
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    for name, tensor in loaded.items():
        yield name, tuple(tensor.shape), partial(_itself, tensor)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
