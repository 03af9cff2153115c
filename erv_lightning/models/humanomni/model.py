"""HumanOmni without its vocabulary head: SigLIP, Whisper and BERT in front of Qwen2.

The sizes and the order of things are those of the published model (arXiv 2501.15111); R1-Omni and ERV share them.

Legend: B clips, each with one prompt of L tokens; T frames; N features of a clip; H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel, Qwen2Model, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import can_return_tuple

from erv_lightning.models.humanomni.configuration import HumanOmniConfig
from erv_lightning.models.humanomni.projector import AudioProjector, VisualProjector


class HumanOmniPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What transformers wants to know of the models below."""

    config: HumanOmniConfig
    config_class = HumanOmniConfig
    base_model_prefix = "model"
    input_modalities = ("video", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = (
        "Qwen2DecoderLayer",
        "SiglipVisionEmbeddings",
        "SiglipEncoderLayer",
        "SiglipMultiheadAttentionPoolingHead",
        "WhisperEncoderLayer",
        "BertEmbeddings",
        "BertLayer",
        "ConvBranch",
    )
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True


class VisionTower(SiglipVisionModel):  # type: ignore[misc]
    """SigLIP whose forward ends where it is read; the layers after stay, so that checkpoints are whole."""

    def forward(self, pixel_values: Tensor, layers: int) -> Tensor:
        """Hidden state `layers` of frames, (frames, 3, S, S) → (frames, patches, width)."""
        states: Tensor = self.embeddings(pixel_values)
        for layer in self.encoder.layers[:layers]:
            states = layer(states, None)
        return states


class HumanOmniModel(HumanOmniPreTrainedModel):
    """Everything but the vocabulary head: media and text in, states of the language model out."""

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower._from_config(config.vision_config)
        self.audio_tower = WhisperEncoder._from_config(config.audio_config)
        self.question_encoder = BertModel._from_config(config.question_config)
        self.visual_projector = VisualProjector(config)
        self.audio_projector = AudioProjector(config)
        self.language_model = Qwen2Model._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Of the language model."""
        table: nn.Module = self.language_model.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.language_model.set_input_embeddings(value)

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """What checkpoints hold and no output depends on: SigLIP past the selected layer, and BERT's pooler.

        DDP stops at them unless they are frozen.
        """
        vision = self.vision_tower
        parts = [*vision.encoder.layers[self.config.vision_layers :], vision.post_layernorm]
        parts += [vision.head] if vision.use_head else []
        yield from chain.from_iterable(part.parameters() for part in (*parts, self.question_encoder.pooler))

    # -- media -----------------------------------------------------------------------------------------------

    def get_video_features(
        self, pixel_values_videos: Tensor, question_input_ids: Tensor, question_attention_mask: Tensor | None = None
    ) -> Tensor:
        """What the language model reads of clips, mixed by their questions.

        Args:
            pixel_values_videos: (B, T, 3, S, S), normalised as SigLIP's processor does, S its image size.
            question_input_ids: the bare questions in BERT's tokens, (B, Q).
            question_attention_mask: (B, Q), 1 on tokens; None where nothing is padded.

        Returns:
            (B, T · `config.tokens_per_frame`, H).

        Raises:
            ValueError: frames of another shape or size, or not one question a clip.
        """
        shape, size = tuple(pixel_values_videos.shape), self.config.vision_config.image_size
        if len(shape) != 5 or shape[2:] != (self.config.vision_config.num_channels, size, size):
            raise ValueError(f"pixel_values_videos has shape {shape}, (clips, frames, 3, {size}, {size}) is needed")
        if len(question_input_ids) != shape[0]:
            raise ValueError(f"there are {shape[0]} clips and {len(question_input_ids)} questions: give one for each")
        states = self.vision_tower(pixel_values_videos.flatten(0, 1), self.config.vision_layers)
        read = self.question_encoder(input_ids=question_input_ids, attention_mask=question_attention_mask)
        question = read.last_hidden_state[:, 0]  # [CLS]
        tokens: Tensor = self.visual_projector(states.unflatten(0, shape[:2]), question)
        return tokens

    def get_audio_features(self, input_features: Tensor) -> Tensor:
        """What the language model hears: log-mel spectra (B, bins, frames) → (B, `config.audio_tokens`, H)."""
        states = self.audio_tower(input_features.to(self.audio_tower.conv1.weight.dtype)).last_hidden_state
        tokens: Tensor = self.audio_projector(states)
        return tokens

    def _read(
        self,
        pixel_values_videos: Tensor | None,
        input_features: Tensor | None,
        question_input_ids: Tensor | None,
        question_attention_mask: Tensor | None,
    ) -> dict[int, Tensor]:
        """Features of the media that are there, by their placeholder."""
        features = {}
        if pixel_values_videos is not None:
            if question_input_ids is None:
                raise ValueError("the question decides how a video is read: give question_input_ids with it")
            question = question_input_ids, question_attention_mask
            features[self.config.video_token_id] = self.get_video_features(pixel_values_videos, *question)
        if input_features is not None:
            features[self.config.audio_token_id] = self.get_audio_features(input_features)
        return features

    def embed(self, input_ids: Tensor, features: dict[int, Tensor], check: bool = True) -> Tensor:
        """Embeddings of prompts with media features in the place of their placeholders.

        Args:
            input_ids: (B, L).
            features: placeholder id → (B, N, H), in the order of the placeholders.
            check: off where `input_ids` go on after prompts that were embedded before.

        Returns:
            (B, L, H).

        Raises:
            ValueError: a prompt whose placeholders are not as many as its features.
        """
        places = {
            "video": (self.config.video_token_id, input_ids == self.config.video_token_id),
            "audio": (self.config.audio_token_id, input_ids == self.config.audio_token_id),
        }
        if check:
            _check_counts(places, features)
        taken = places["video"][1] | places["audio"][1]
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(taken, 0))
        for token, place in places.values():
            if token in features:
                embeds = embeds.masked_scatter(place.unsqueeze(-1), features[token].to(embeds.dtype))
        return embeds

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        input_features: Tensor | None = None,
        question_input_ids: Tensor | None = None,
        question_attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """States (B, L, H); see `HumanOmniForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None
            features = self._read(pixel_values_videos, input_features, question_input_ids, question_attention_mask)
            begun = past_key_values is not None and past_key_values.get_seq_length() > 0
            inputs_embeds = self.embed(input_ids, features, check=bool(features) or not begun)
        elif pixel_values_videos is not None or input_features is not None:
            raise ValueError("inputs_embeds hold the media already: give input_ids, or leave the media out")
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


def _check_counts(places: dict[str, tuple[int, Tensor]], features: dict[int, Tensor]) -> None:
    """Raises ValueError unless each prompt has a placeholder for each of its features."""
    problems = []
    for name, (token, place) in places.items():
        clips, each = features[token].shape[:2] if token in features else (len(place), 0)
        counts = place.sum(1)
        if clips != len(place):
            problems.append(f"{len(place)} prompts and the {name} of {clips} clips")
        elif bool((counts != each).any()):
            problems.append(f"{counts.tolist()} {name} placeholders (id {token}) in the prompts, {each} features each")
    if problems:
        raise ValueError(f"media and placeholders differ: {'; '.join(problems)}")
