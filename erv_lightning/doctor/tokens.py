"""Tokens of a prompt: from a few real clips where they and a processor are there, else from the data's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erv_lightning.data.clips import ClipRules, make_prompt
from erv_lightning.data.media import ClipError, load_clip
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.models.qwen_prompts import audio_tokens

TEXT_TOKENS = 60  # question, chat format and tags, where nothing was measured
ASSUMED_SIZE = (224, 224)  # where data.frame_size is null
ASSUMED_SECONDS = 5.0  # of sound, where no clip was read
MEL_RATE = 100  # spectrum frames a second


@dataclass(frozen=True)
class Tokens:
    """The largest of what was looked at.

    Attributes:
        prompt, media: tokens of a prompt, and those of them that stand for picture and sound.
        patches, frames: picture patches and spectrum frames.
        measured: clips looked at; 0: from the settings.
    """

    prompt: int
    media: int
    patches: int
    frames: int
    measured: int = 0


def from_settings(rules: ClipRules) -> Tokens:
    """Qwen2.5-Omni: patches of 14 × 14 pixels and two frames, four to a token; 25 tokens a second of sound.

    Three tokens and more around each medium belong to `TEXT_TOKENS`.
    """
    height, width = rules.media.frame_size or ASSUMED_SIZE
    pairs = -(-rules.media.num_frames // 2)
    patches = pairs * 2 * round(height / 28) * 2 * round(width / 28) if rules.media.video else 0
    frames = int(MEL_RATE * min(ASSUMED_SECONDS, rules.media.max_seconds)) if rules.media.audio else 0
    media = patches // 4 + (int(audio_tokens(frames)) if frames else 0)
    return Tokens(TEXT_TOKENS + media, media, patches, frames)


def from_clips(samples: Sequence[Sample], source: ClipSource, rules: ClipRules, encoder: Any) -> tuple[Tokens, str]:
    """The longest prompt of these samples; with none that can be read, the settings and why."""
    found: list[Tokens] = []
    why = ""
    media = replace(rules.media, decoder="pyav")
    for sample in samples:
        record = sample.record or sample.id
        try:
            clip, audio = source.media(sample)
            prompt = make_prompt(sample, load_clip(clip, media, audio=audio, record=record), encoder, rules)
        except (ClipError, OSError) as error:
            why = str(error)
            continue
        grid, heard = prompt.media.get("video_grid_thw"), prompt.media.get("feature_attention_mask")
        patches = 0 if grid is None else int(grid.prod())
        frames = 0 if heard is None else int(heard.sum())
        placed = sum(int((prompt.input_ids == token).sum()) for token in encoder.media_tokens.values())
        found.append(Tokens(len(prompt.input_ids), placed, patches, frames))
    if not found:
        return from_settings(rules), why
    longest = max(found, key=lambda one: one.prompt)
    return replace(longest, measured=len(found)), why
