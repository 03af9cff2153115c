"""Prompts of Qwen3-Omni: as Qwen2.5-Omni's but for how sound is counted, and how it is mixed with the picture.

Its audio tower reads a second at a time and makes 13 tokens of it, its pictures stand at fractions of a position, and
picture and sound that take turns are sorted by time, token by token. Its processor does not pad sound at all.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoePreTrainedModelForConditionalGeneration,
)

from erv_lightning.models.hugging_face import read_pretrained
from erv_lightning.models.qwen_prompts import AUDIO_INPUTS, QwenOmniPrompts

CHUNK_TOKENS = 13  # of a whole chunk of 100 frames, a second


class Qwen3OmniPrompts(QwenOmniPrompts):
    """The processor and the rope positions of a Qwen3-Omni thinker. Positions are floats, (3, T).

    Args:
        processor: a `Qwen3OmniMoeProcessor`.
        config: the thinker's configuration, with the ids of the vision tokens as the released ones have them.
        use_audio_in_video: audio and video tokens are sorted by their time instead of following each other.
    """

    rope_class: ClassVar[Any] = Qwen3OmniMoePreTrainedModelForConditionalGeneration

    @classmethod
    def from_pretrained(  # type: ignore[override]  # there is no built-in model to be the default
        cls, pretrained: str, use_audio_in_video: bool = False
    ) -> Qwen3OmniPrompts:
        """Reads the processor and the configuration of a folder or hub id.

        Raises:
            ValueError: for a folder that is not there.
        """
        readers = Qwen3OmniMoeProcessor.from_pretrained, Qwen3OmniMoeThinkerConfig.from_pretrained
        processor, config = read_pretrained(pretrained, *readers)
        return cls(processor, config, use_audio_in_video)

    def audio_tokens(self, frames: Any) -> Any:
        """Tokens that the audio tower makes of spectrum frames: one of eight, each second's rest rounded up."""
        seconds, rest = frames // self._chunk, frames % self._chunk
        return (((rest + 1) // 2 + 1) // 2 + 1) // 2 + CHUNK_TOKENS * seconds

    @property
    def _chunk(self) -> int:
        return 2 * int(self.config.audio_config.n_window)

    def _hear(self, audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """Log-mel spectrum (1, bins, frames) and its mask (1, frames) of mono audio (S,)."""
        front = self.processor.feature_extractor
        if len(audio) < front.n_fft:
            raise ValueError(f"{len(audio)} samples of audio are too few for a token: give at least {front.n_fft}")
        settings = {"padding": True, "truncation": False, "return_attention_mask": True}
        heard = front(audio.numpy(), sampling_rate=sample_rate, return_tensors="pt", **settings)
        return {AUDIO_INPUTS[0]: heard["input_features"], AUDIO_INPUTS[1]: heard["attention_mask"]}

    def _turns(self, seen: list[float], heard: int) -> list[int]:
        """Picture and sound tokens in the order of their times; a picture before the sound that starts with it."""
        video, audio = self.media_tokens["video"], self.media_tokens["audio"]
        timed = [(time, video) for time in seen] + [(float(time), audio) for time in range(heard)]
        return [token for _, token in sorted(timed, key=lambda one: one[0])]  # stable
