"""HumanOmni's processor: from a question, decoded frames and sound to what the model reads.

It decodes nothing: frames are bytes and sound is mono at Whisper's rate by the time they come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from erv_lightning.data.media import frame_indices

# Plain text to the tokenizer, several tokens each; the placeholders between them are one token each.
WRAPPER = {"video": ("<vi_start>", "<vi_end>\n"), "audio": ("<au_start>", "<au_end>\n")}
PLACEHOLDERS = {"video": "<|video_pad|>", "audio": "<|audio_pad|>"}
WHISPER_STRIDE = 6  # spectrum frames an audio token: two a state, three states a token

# Qwen2's, for a tokenizer that comes without.
CHAT_TEMPLATE = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def add_placeholders(tokenizer: Any) -> dict[str, int]:
    """Makes the placeholders special tokens of a tokenizer, if they are not yet; their ids by ``video``, ``audio``."""
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    return {kind: int(tokenizer.convert_tokens_to_ids(token)) for kind, token in PLACEHOLDERS.items()}


def pad_to_square(frames: Tensor, colour: Sequence[float]) -> Tensor:
    """Frames in the middle of a square of one colour.

    Args:
        frames: uint8, (T, 3, H, W).
        colour: of the three channels, in [0, 1].

    Returns:
        uint8, (T, 3, S, S), S the longer of H and W.
    """
    steps, channels, height, width = frames.shape
    side = max(height, width)
    if height == width:
        return frames
    fill = torch.tensor([int(255 * value) for value in colour], dtype=torch.uint8)
    square = fill.view(1, channels, 1, 1).repeat(steps, 1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, :, top : top + height, left : left + width] = frames
    return square


class HumanOmniProcessor(ProcessorMixin):  # type: ignore[misc]
    """SigLIP's image processor, Whisper's feature extractor, Qwen2's tokenizer, and BERT's for the gate.

    Args:
        image_processor: scales and normalises frames; its mean colour pads them.
        feature_extractor: makes log-mel spectra, cut or padded to its length.
        tokenizer: the language model's; the placeholders are added to it.
        question_tokenizer: BERT's.
        chat_template: the tokenizer's own where it is None, else Qwen2's.
        num_frames: frames of a clip; other numbers are sampled or repeated to it.
        tokens_per_frame: `HumanOmniConfig.tokens_per_frame`.
    """

    def __init__(
        self,
        image_processor: Any,
        feature_extractor: Any,
        tokenizer: Any,
        question_tokenizer: Any,
        chat_template: str | None = None,
        num_frames: int = 8,
        tokens_per_frame: int = 49,
    ) -> None:
        ids = add_placeholders(tokenizer)
        self.video_token_id, self.audio_token_id = ids["video"], ids["audio"]
        self.num_frames, self.tokens_per_frame = num_frames, tokens_per_frame
        template = chat_template or getattr(tokenizer, "chat_template", None) or CHAT_TEMPLATE
        super().__init__(image_processor, feature_extractor, tokenizer, question_tokenizer, chat_template=template)

    @property
    def audio_tokens(self) -> int:
        """Audio tokens of a clip."""
        return int(self.feature_extractor.nb_max_frames) // WHISPER_STRIDE

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Any = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        question: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """The inputs of `HumanOmniForConditionalGeneration.forward`, left-padded.

        Args:
            text: what the user asks, one for each clip; the prompt ends where the answer begins.
            videos: for each clip its frames, uint8, (T, 3, H, W) or (T, H, W, 3), or a list of pictures; or None.
            audio: for each clip its sound, mono, (S,) in [−1, 1]; or None.
            sampling_rate: of the sound, in Hz; Whisper's.
            question: what the gate reads, where it is not the text itself.
            kwargs: `return_tensors` may say ``"pt"``, which is what comes back.

        Raises:
            ValueError: not one clip for each text, media of another kind, or a text that holds a placeholder.
        """
        if kwargs.pop("return_tensors", "pt") != "pt" or kwargs:
            raise ValueError(f"return_tensors can only be 'pt', and nothing else is taken: {sorted(kwargs)}")
        texts = [text] if isinstance(text, str) else list(text)
        asked = texts if question is None else [question] if isinstance(question, str) else list(question)
        data: dict[str, Any] = {}
        if videos is not None:
            data["pixel_values_videos"] = self.see(_listed("videos", videos, len(texts), single=(4,)))
        if audio is not None:
            data["input_features"] = self.hear(_listed("audio", audio, len(texts), single=(1,)), sampling_rate)
        if len(asked) != len(texts):
            raise ValueError(f"there are {len(texts)} texts and {len(asked)} questions")
        kinds = [kind for kind, given in (("video", videos), ("audio", audio)) if given is not None]
        rows = {"input_ids": [self.input_ids(one, kinds) for one in texts]}
        padded = self.tokenizer.pad(rows, padding_side="left", return_tensors="pt")
        data |= {name: padded[name] for name in ("input_ids", "attention_mask")}
        read = self.question_tokenizer(asked, padding=True, truncation=True, max_length=512, return_tensors="pt")
        data |= {f"question_{name}": read[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature(data)

    def see(self, videos: Sequence[Any]) -> Tensor:
        """Frames as SigLIP reads them, (B, T, 3, S, S) with T = `num_frames`."""
        clips = [self._frames(video) for video in videos]
        frames = [frame for clip in clips for frame in clip]
        seen = self.image_processor(frames, return_tensors="pt", input_data_format="channels_first")
        pixels: Tensor = seen["pixel_values"]
        return pixels.reshape(len(clips), self.num_frames, *pixels.shape[1:])

    def _frames(self, video: Any) -> Tensor:
        """The frames that are used of a clip, square, uint8, (T, 3, S, S)."""
        if not isinstance(video, Tensor):
            video = torch.from_numpy(np.stack([np.asarray(frame) for frame in video]))
        if video.ndim == 4 and video.shape[1] != 3:
            video = video.permute(0, 3, 1, 2)
        if video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8 or not len(video):
            found = f"{video.dtype} of shape {tuple(video.shape)}"
            raise ValueError(f"a video is {found}: frames of bytes, (frames, 3, height, width), are needed")
        chosen = frame_indices(len(video), self.num_frames)
        return pad_to_square(video[chosen], self.image_processor.image_mean)

    def hear(self, audio: Sequence[Any], sampling_rate: int | None) -> Tensor:
        """Log-mel spectra, (B, bins, frames)."""
        if sampling_rate is None:
            raise ValueError(f"give the audio's sampling_rate: {self.feature_extractor.sampling_rate} is needed")
        waves = [np.asarray(wave, dtype=np.float32) for wave in audio]
        if any(wave.ndim != 1 for wave in waves):
            raise ValueError(f"audio of shape {[wave.shape for wave in waves]}: mono, (samples,), is needed")
        heard = self.feature_extractor(waves, sampling_rate=sampling_rate, return_tensors="pt")
        features: Tensor = heard["input_features"]
        return features

    def prompt(self, text: str, kinds: Sequence[str]) -> str:
        """The prompt in words, each placeholder once; what is heard comes after what is seen."""
        media = "".join(PLACEHOLDERS[kind].join(WRAPPER[kind]) for kind in WRAPPER if kind in kinds)
        turn = [{"role": "user", "content": media + text}]
        written: str = self.tokenizer.apply_chat_template(
            turn, chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )
        return written

    def input_ids(self, text: str, kinds: Sequence[str]) -> list[int]:
        """Token ids of a prompt, its placeholders once for each feature.

        Args:
            text: what the user asks.
            kinds: ``video`` and ``audio``, as far as the clip has them.

        Raises:
            ValueError: a text that holds a placeholder.
        """
        if held := [token for token in PLACEHOLDERS.values() if token in text]:
            raise ValueError(f"the text {text!r} holds {', '.join(held)}: take it out")
        counts = {
            self.video_token_id: self.num_frames * self.tokens_per_frame,
            self.audio_token_id: self.audio_tokens,
        }
        written = self.tokenizer(self.prompt(text, kinds), add_special_tokens=False)["input_ids"]
        return [token for token in written for _ in range(counts.get(token, 1))]


def _listed(name: str, media: Any, clips: int, single: tuple[int, ...]) -> list[Any]:
    """Media as one entry a clip; an array of `single` dimensions is that of one clip."""
    listed = [media] if getattr(media, "ndim", None) in single else list(media)
    if len(listed) != clips:
        raise ValueError(f"there are {clips} texts and {len(listed)} {name}: give one for each, in a list")
    return listed
