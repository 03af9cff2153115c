"""HumanOmni's configuration: the language model's, the three towers', and how the projector ties them together."""

from __future__ import annotations

import math
from typing import Any

from transformers import BertConfig, PreTrainedConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

# Of each projector: blocks per convolution stage, and the padding of the sampler over (time, height, width).
PROJECTORS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "all_in_one_small": (2, (1, 0, 0)),
    "all_in_one": (4, (1, 1, 1)),
}
AUDIO_POOL = 3  # Whisper states per audio token
TEXT_TOKENS = 151646  # ids that Qwen2's tokenizer uses; the rows of the embedding beyond them are padding


class HumanOmniConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a HumanOmni model.

    Args:
        vision_config: SigLIP's; a dict or a `SiglipVisionConfig`.
        audio_config: Whisper's, of which the encoder is read.
        question_config: BERT's, which reads the bare question for the gate.
        text_config: Qwen2's.
        projector_type: ``all_in_one_small`` for a patch grid of even height and width, ``all_in_one`` for an odd one.
        vision_select_layer: which of SigLIP's hidden states is read, as an index of `hidden_states`.
        gate_width: inner width of the gate's MLP.
        num_frames: frames of a clip; the processor makes so many, the network takes any number.
        video_token_id, audio_token_id: placeholders. They are never looked up in the embedding, and may lie beyond it.

    Raises:
        ValueError: a projector or a layer that is not there, or a patch grid that the projector cannot halve.
    """

    model_type = "humanomni"
    sub_configs = {  # noqa: RUF012 - as transformers wants it
        "vision_config": SiglipVisionConfig,
        "audio_config": WhisperConfig,
        "question_config": BertConfig,
        "text_config": Qwen2Config,
    }

    vision_config: Any = None
    audio_config: Any = None
    question_config: Any = None
    text_config: Any = None
    projector_type: str = "all_in_one_small"
    vision_select_layer: int = -2
    gate_width: int = 3584
    num_frames: int = 8
    video_token_id: int = TEXT_TOKENS
    audio_token_id: int = TEXT_TOKENS + 1
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            if not isinstance(given, PreTrainedConfig):
                setattr(self, name, kind(**(given or {})))
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        layers = self.vision_config.num_hidden_layers
        if self.projector_type not in PROJECTORS:
            raise ValueError(
                f"projector_type {self.projector_type!r} is unknown, one of {', '.join(PROJECTORS)} is needed"
            )
        if not 0 <= self.vision_layers <= layers:
            raise ValueError(f"vision_select_layer is {self.vision_select_layer}, but SigLIP has {layers} layers")
        height = PROJECTORS[self.projector_type][1][1]
        if (self.patch_grid + 2 * height) // 2 != math.ceil(self.patch_grid / 2):
            raise ValueError(
                f"projector_type {self.projector_type} cannot halve SigLIP's grid of {self.patch_grid} × "
                f"{self.patch_grid} patches: all_in_one_small is for even grids, all_in_one for odd ones"
            )

    @property
    def vision_layers(self) -> int:
        """SigLIP layers that run: those before the selected hidden state."""
        index = self.vision_select_layer
        return index if index >= 0 else int(self.vision_config.num_hidden_layers) + 1 + index

    @property
    def patch_grid(self) -> int:
        """Patches along each side of a frame."""
        return int(self.vision_config.image_size) // int(self.vision_config.patch_size)

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens that the language model reads of a frame."""
        return math.ceil(self.patch_grid / 2) ** 2

    @property
    def video_tokens(self) -> int:
        """Of a clip of `num_frames` frames."""
        return self.num_frames * self.tokens_per_frame

    @property
    def audio_tokens(self) -> int:
        """Of a clip's sound."""
        return int(self.audio_config.max_source_positions) // AUDIO_POOL
