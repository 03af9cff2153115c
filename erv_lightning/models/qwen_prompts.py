"""Prompts of Qwen2.5-Omni from questions and clips: what a data worker needs of the model, without its weights.

The numbers are those of Hugging Face's processor, whose parts are called one by one: the whole spends its time on
300 s of silence, since it pads every clip to the full window of the Whisper front end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniPreTrainedModelForConditionalGeneration

from erv_lightning.data.media import Clip
from erv_lightning.models.backbone import PromptBatch, PromptFeatures
from erv_lightning.models.hugging_face import read_pretrained
from erv_lightning.models.tiny import TINY, tiny_policy

AUDIO_INPUTS = ("input_features", "feature_attention_mask")  # padded to the longest clip of a batch
FRAME_BLOCK = 32  # spectrum frames are made in such multiples: then the matrix product rounds as over the full window


class QwenOmniPrompts:
    """The processor and the rope positions of a Qwen2.5-Omni thinker.

    A clip whose frames or audio are None gets no placeholder and no media of that kind.

    Args:
        processor: a `Qwen2_5OmniProcessor`.
        config: the thinker's configuration.
        use_audio_in_video: audio and video take turns within each chunk of time instead of following each other.
    """

    # The model's base class has no layers, and all that rope positions take.
    rope_class: ClassVar[Any] = Qwen2_5OmniPreTrainedModelForConditionalGeneration

    def __init__(self, processor: Any, config: Any, use_audio_in_video: bool = False) -> None:
        self.processor, self.config = processor, config
        self.use_audio_in_video = use_audio_in_video
        self.media_tokens: dict[str, int] = {"video": config.video_token_id, "audio": config.audio_token_id}
        self._rope = self.rope_class(config)
        self._rope.spatial_merge_size = config.vision_config.spatial_merge_size

    @classmethod
    def from_pretrained(cls, pretrained: str = TINY, use_audio_in_video: bool = False) -> QwenOmniPrompts:
        """Reads the processor and the configuration of a folder or hub id, or makes those of ``tiny``.

        Raises:
            ValueError: for a folder that is not there.
        """
        if pretrained == TINY:
            with torch.device("meta"):
                model, processor = tiny_policy()
            return cls(processor, model.config, use_audio_in_video)
        readers = Qwen2_5OmniProcessor.from_pretrained, Qwen2_5OmniThinkerConfig.from_pretrained
        processor, config = read_pretrained(pretrained, *readers)
        return cls(processor, config, use_audio_in_video)

    # -- one prompt ------------------------------------------------------------------------------------------

    @property
    def max_audio_seconds(self) -> float:
        """What the Whisper front end takes before it cuts."""
        return float(self.processor.feature_extractor.chunk_length)

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """Chat template, media features and rope positions of a question and its clip.

        Raises:
            ValueError: a question that holds a media token, audio too short for a token or of another sample rate.
        """
        media: dict[str, Tensor] = {}
        seconds = 0.0  # between two steps of the video grid
        if clip.frames is not None:
            media |= self._see(clip.frames)
            seconds = self.processor.video_processor.temporal_patch_size / clip.fps
        if clip.audio is not None:
            media |= self._hear(clip.audio, clip.sample_rate)
        mixed = self.use_audio_in_video and clip.frames is not None and clip.audio is not None
        input_ids = torch.tensor([self._input_ids(question, media, seconds, mixed)])
        position_ids, _ = self._rope.get_rope_index(
            input_ids,
            None,
            media.get("video_grid_thw"),
            torch.ones_like(input_ids),
            mixed,
            media[AUDIO_INPUTS[1]].sum(-1) if clip.audio is not None else None,
            torch.tensor([seconds]),
        )
        return PromptFeatures(input_ids[0], position_ids[:, 0], media)

    def _see(self, frames: Tensor) -> dict[str, Tensor]:
        """Patches (t·h·w, values) and grid (1, 3) of frames (T, 3, H, W)."""
        eye = self.processor.video_processor
        seen = eye([frames], do_sample_frames=False, do_rescale=False, do_normalize=False, return_tensors="pt")
        # Bytes as long as they move about, then floats in their place: new memory is what costs.
        patches = seen["pixel_values_videos"].unflatten(1, (frames.shape[1], -1, 1))  # (t·h·w, 3, values, 1)
        scale = eye.do_rescale, eye.rescale_factor, eye.do_normalize, eye.image_mean, eye.image_std
        pixels = eye.rescale_and_normalize(patches, *scale).flatten(1)
        return {"pixel_values_videos": pixels, "video_grid_thw": seen["video_grid_thw"]}

    def _hear(self, audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """Log-mel spectrum (1, bins, frames) and its mask (1, frames) of mono audio (S,)."""
        front = self.processor.feature_extractor
        # Silence of one Fourier window after the sound: every frame that hears any of it is there, as in 300 s.
        block = FRAME_BLOCK * front.hop_length
        padded = min(math.ceil((len(audio) + front.n_fft) / block) * block, front.n_samples)
        settings = {"padding": "max_length", "max_length": padded, "return_attention_mask": True}
        heard = front(audio.numpy(), sampling_rate=sample_rate, return_tensors="pt", **settings)
        frames = int(heard["attention_mask"].sum())
        if self.audio_tokens(frames) < 1:
            raise ValueError(f"{len(audio)} samples of audio are too few for a token: give at least 0.03 seconds")
        kept = (heard[name][..., :frames] for name in ("input_features", "attention_mask"))
        return dict(zip(AUDIO_INPUTS, kept, strict=True))

    def _input_ids(self, question: str, media: dict[str, Tensor], seconds: float, mixed: bool) -> list[int]:
        """The tokens of a prompt, each media placeholder repeated once per feature."""
        repeats = self._placeholders(media, seconds, mixed)
        kinds = [kind for kind, token in self.media_tokens.items() if token in repeats]
        turn = {"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        written: list[int] = self.processor.tokenizer(text)["input_ids"]
        starts = {"video": self.config.vision_start_token_id, "audio": self.config.audio_start_token_id}
        wanted = {self.config.image_token_id: 0}
        for kind, token in self.media_tokens.items():
            wanted[token] = wanted[starts[kind]] = int(kind in kinds)
        if any(written.count(token) != count for token, count in wanted.items()):
            raise ValueError(f"question {question!r} holds a media token: take it out")
        return [one for token in written for one in repeats.get(token, (token,))]

    def _placeholders(self, media: dict[str, Tensor], seconds: float, mixed: bool) -> dict[int, list[int]]:
        """What each placeholder of the chat template becomes."""
        counts = {token: int(count) for token, count in self._features(media).items()}
        if not mixed:
            return {token: [token] * count for token, count in counts.items()}
        video, audio = counts
        steps = int(media["video_grid_thw"][0, 0])
        # when each token comes, in position ids
        each = counts[video] // steps
        seen = [step * seconds * self.config.position_id_per_seconds for step in range(steps) for _ in range(each)]
        turns = self._turns(seen, counts[audio])
        return {video: [self.config.audio_start_token_id, *turns, self.config.audio_end_token_id]}

    def _turns(self, seen: list[float], heard: int) -> list[int]:
        """Picture and sound tokens, a chunk of time of each in turn; `seen` are the pictures' times."""
        size = int(self.config.position_id_per_seconds * self.config.seconds_per_chunk)
        runs = []  # of each kind, one a chunk
        for token, times in ((self.media_tokens["video"], seen), (self.media_tokens["audio"], range(heard))):
            chunks = self.processor.get_chunked_index(times, size)
            runs.append([[token] * (end - start) for start, end in chunks])
        return list(chain(*chain(*zip_longest(*runs, fillvalue=[]))))

    def audio_tokens(self, frames: Any) -> Any:
        """Tokens that the audio tower makes of spectrum frames, an int or a tensor."""
        return audio_tokens(frames)

    def _features(self, media: dict[str, Tensor]) -> dict[int, Tensor]:
        """How many features the towers make of each prompt's media, by the token they replace: (P,)."""
        merge = self.config.vision_config.spatial_merge_size**2
        counts = {}
        if "video_grid_thw" in media:
            counts[self.media_tokens["video"]] = media["video_grid_thw"].prod(-1) // merge
        if "feature_attention_mask" in media:
            counts[self.media_tokens["audio"]] = self.audio_tokens(media["feature_attention_mask"].sum(-1))
        return counts

    # -- batches ---------------------------------------------------------------------------------------------

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """Left-pads prompts and concatenates their media, or the towers' features. ValueError where they differ."""
        batch = PromptBatch.padded(ids, prompts, self.processor.tokenizer.pad_token_id)
        for name in prompts[0].media:
            values = [prompt.media[name] for prompt in prompts]
            if name in AUDIO_INPUTS:
                frames = max(value.shape[-1] for value in values)
                values = [nn.functional.pad(value, (0, frames - value.shape[-1])) for value in values]
            batch.media[name] = torch.cat(values)
        return batch

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one; see `Backbone.split`."""
        return batch.unpadded(_split_media(batch), self.media_tokens)

    def check_media(self, batch: PromptBatch) -> None:
        """Raises ValueError if a prompt's placeholders do not match its media; names the samples."""
        counts = self._features(batch.media)
        made = {name: counts[token].tolist() for name, token in self.media_tokens.items() if token in counts}
        batch.check_placeholders(self.media_tokens, made)


def audio_tokens(frames: Any) -> Any:
    """Tokens that the audio tower makes of spectrum frames, an int or a tensor: one of four, 25 a second."""
    return ((frames - 1) // 2 - 1) // 2 + 1


def _split_media(batch: PromptBatch) -> list[dict[str, Tensor]]:
    """The media of each prompt, without the padding."""
    parts: list[dict[str, Tensor]] = [{} for _ in batch.ids]
    for name, value in batch.media.items():
        rows = batch.media["video_grid_thw"].prod(-1).tolist() if name == "pixel_values_videos" else 1
        for part, piece in zip(parts, torch.split(value, rows), strict=True):
            part[name] = piece
    if AUDIO_INPUTS[1] in batch.media:
        for part in parts:
            heard = int(part[AUDIO_INPUTS[1]].sum())
            part |= {name: part[name][..., :heard] for name in AUDIO_INPUTS}
    return parts
