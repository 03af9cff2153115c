"""A published HumanOmni checkpoint in our layout: configuration, weights, and the processor as far as it is found.

Nothing is guessed: tensors too many, too few or of another shape stop the conversion, all of them in one message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen2Config,
    SiglipImageProcessor,
    WhisperFeatureExtractor,
)

from erv_lightning.models.humanomni.configuration import TEXT_TOKENS, HumanOmniConfig
from erv_lightning.models.humanomni.modeling import HumanOmniForConditionalGeneration
from erv_lightning.models.humanomni.processing import HumanOmniProcessor, add_placeholders
from erv_lightning.models.humanomni.published import TIED, PublishedWeights, is_dropped, our_name, published_name
from erv_lightning.models.humanomni.published_config import make_config, read_config, tower_folders

SHARD = "5GB"
GATE, GATE_WIDTH = "model.bert_gate.0.weight", 3584
PREPROCESSOR = "preprocessor_config.json"
EMBEDDING = "model.embed_tokens.weight"
FRAMES_PER_SECOND = 100  # of Whisper's spectra


class Conversion:
    """A checkpoint, read and checked; `save` writes it.

    Attributes:
        config: ours.
        model: on the meta device, without weights.
        names: our name → published name of every tensor.
        dropped: published names that are left behind.
        processor: None where a part of it was not found.
        missing: what it wants.

    Args:
        source: the published folder.
        towers: ``vision``, ``audio``, ``question`` → a folder with the tower's configuration; where it is left out, the
            folder that the published configuration names.

    Raises:
        FileNotFoundError: a file that is needed.
        ValueError: a configuration that does not fit together, or tensors that are not those of the model.
    """

    def __init__(self, source: Path, towers: Mapping[str, Path]) -> None:
        published = read_config(source)
        folders = tower_folders(source, published, towers)
        self.weights = PublishedWeights(source)
        self.tokenizer = _tokenizer(source, ("vocab.json", "tokenizer.json"), config=Qwen2Config())
        placeholders = _placeholders(self.tokenizer, int(published.get("vocab_size", 0)))
        gate_width = self.weights.shapes.get(GATE, (GATE_WIDTH,))[0]
        self.config = make_config(published, folders, gate_width, placeholders)
        dtype = _dtype(published, self.weights)
        with torch.device("meta"):
            self.model = HumanOmniForConditionalGeneration._from_config(self.config, dtype=dtype)
        self.model.generation_config = _generation_config(source, published)
        self.names, self.dropped = check(self.weights, self.model)
        self.processor, self.missing = self._make_processor(source, folders)

    def _make_processor(self, source: Path, folders: Mapping[str, Path]) -> tuple[HumanOmniProcessor | None, list[str]]:
        """The processor, and the parts of it that were not found."""
        question = folders["question"]
        question_tokenizer = _tokenizer(question, ("vocab.txt", "tokenizer.json"))
        feature_extractor = _feature_extractor(folders["audio"], self.config)
        wanted = {
            f"a tokenizer in {source}": self.tokenizer,
            f"a tokenizer in {question}": question_tokenizer,
            f"{PREPROCESSOR} in {folders['audio']}": feature_extractor,
        }
        if missing := [name for name, part in wanted.items() if part is None]:
            return None, missing
        made = HumanOmniProcessor(
            _image_processor(folders["vision"], self.config),
            feature_extractor,
            self.tokenizer,
            question_tokenizer,
            num_frames=self.config.num_frames,
            tokens_per_frame=self.config.tokens_per_frame,
        )
        return made, []

    def save(self, folder: Path) -> None:
        """Writes a folder that `from_pretrained` reads, shard by shard."""
        state = {ours: self.weights[theirs] for ours, theirs in self.names.items()}
        self.model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        elif self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def check(weights: PublishedWeights, model: HumanOmniForConditionalGeneration) -> tuple[dict[str, str], list[str]]:
    """Compares the tensors of a checkpoint with those of the model.

    A tied `lm_head` may be missing; of what may be there without use, see `published.is_dropped`.

    Returns:
        Our name → published name of every tensor to save, and the published names that are left behind.

    Raises:
        ValueError: every tensor that is missing, unexpected or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.config.tie_word_embeddings
    names: dict[str, str] = {}
    dropped, unexpected, misshapen = [], [], []
    for theirs, shape in weights.shapes.items():
        ours = our_name(theirs)
        if is_dropped(theirs) or (tied and theirs == TIED):
            dropped.append(theirs)
        elif ours is not None and ours in wanted:
            names[ours] = theirs
            if shape != wanted[ours]:
                misshapen.append(f"{theirs} is {shape}, {wanted[ours]} is needed")
        else:
            unexpected.append(theirs)
    if TIED in dropped and EMBEDDING in weights.shapes and not torch.equal(weights[TIED], weights[EMBEDDING]):
        misshapen.append(f"{TIED} is not {EMBEDDING}, although tie_word_embeddings is true")
    missing = [published_name(ours) for ours in wanted if ours not in names and not (tied and ours == TIED)]
    kinds = {"missing": missing, "unexpected": unexpected, "wrong": misshapen}
    said = [f"{len(found)} {kind}: {', '.join(found)}" for kind, found in kinds.items() if found]
    if said:
        raise ValueError("the tensors are not those of the model that the configuration describes; " + "; ".join(said))
    return names, dropped


def _dtype(published: Mapping[str, Any], weights: PublishedWeights) -> torch.dtype:
    """What the configuration says, or else what the tensors are."""
    named = published.get("dtype") or published.get("torch_dtype")
    if named is not None:
        return getattr(torch, str(named))  # type: ignore[no-any-return]
    return next((weights[name].dtype for name in weights.shapes), torch.float32)


def _generation_config(source: Path, published: Mapping[str, Any]) -> GenerationConfig:
    """The special tokens of generation; how to sample is the user's to say."""
    path = source / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: said.get(name, published.get(name)) for name in names})


def _placeholders(tokenizer: Any, rows: int) -> dict[str, int]:
    """Token ids that text does not use, by ``video`` and ``audio``.

    Args:
        tokenizer: the language model's, which gets them; None where it was not found.
        rows: of the embedding; 0 where the configuration does not say.

    Raises:
        ValueError: a tokenizer with more tokens than the embedding has rows.
    """
    if tokenizer is not None:
        if rows and len(tokenizer) > rows:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the embedding has only {rows} rows")
        return add_placeholders(tokenizer)
    # Nobody says what text uses: what Qwen2's tokenizer leaves, or else beyond the embedding.
    first = TEXT_TOKENS if rows >= TEXT_TOKENS + 2 else rows
    return {"video": first, "audio": first + 1}


def _tokenizer(folder: Path, files: tuple[str, ...], **kwargs: Any) -> Any:
    """The tokenizer in a folder, None where it has none of its files."""
    if not any((folder / name).is_file() for name in files):
        return None
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **kwargs)


def _image_processor(folder: Path, config: HumanOmniConfig) -> Any:
    """SigLIP's image processor: the folder's, or the usual one.

    Raises:
        ValueError: its size is not the tower's.
    """
    side = int(config.vision_config.image_size)
    size = {"height": side, "width": side}
    if not (folder / PREPROCESSOR).is_file():
        return SiglipImageProcessor(size=size)
    found = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    if {key: found.size[key] for key in size} != size:
        raise ValueError(f"{folder} scales pictures to {found.size}, the vision tower reads {side} × {side}")
    return found


def _feature_extractor(folder: Path, config: HumanOmniConfig) -> Any:
    """Whisper's feature extractor: the folder's, or the usual one; None where the tower's length is no whole second.

    Raises:
        ValueError: its spectra are not those of the tower.
    """
    bins, frames = int(config.audio_config.num_mel_bins), 2 * int(config.audio_config.max_source_positions)
    if (folder / PREPROCESSOR).is_file():
        found = WhisperFeatureExtractor.from_pretrained(folder)
        if (found.feature_size, found.nb_max_frames) != (bins, frames):
            made = f"{found.feature_size} bins and {found.nb_max_frames} frames"
            raise ValueError(f"{folder} makes spectra of {made}, the audio tower reads {bins} and {frames}")
        return found
    seconds, rest = divmod(frames, FRAMES_PER_SECOND)
    return None if rest else WhisperFeatureExtractor(feature_size=bins, chunk_length=seconds)
