"""HumanOmni as transformers trains and generates with it.

Legend: B clips, each with one prompt of L tokens; T frames; H hidden width; V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from erv_lightning.models.humanomni.configuration import HumanOmniConfig
from erv_lightning.models.humanomni.model import HumanOmniModel, HumanOmniPreTrainedModel

MEDIA = ("pixel_values_videos", "input_features", "question_input_ids", "question_attention_mask")


class HumanOmniForConditionalGeneration(HumanOmniPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """HumanOmni with its vocabulary head: what trains and generates."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: HumanOmniConfig) -> None:
        super().__init__(config)
        self.model = HumanOmniModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_video_features(
        self, pixel_values_videos: Tensor, question_input_ids: Tensor, question_attention_mask: Tensor | None = None
    ) -> Tensor:
        """See `HumanOmniModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, question_input_ids, question_attention_mask)

    def get_audio_features(self, input_features: Tensor) -> Tensor:
        """See `HumanOmniModel.get_audio_features`."""
        return self.model.get_audio_features(input_features)

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Scores of the next token, and the loss where there are labels.

        Video, audio or both may be left out; each prompt then has no placeholder of that kind.

        Args:
            input_ids: (B, L), `config.video_token_id` and `config.audio_token_id` once for each feature.
            attention_mask: (B, L), 1 on tokens, 0 on padding.
            pixel_values_videos: (B, T, 3, S, S); needs the question.
            input_features: log-mel spectra, (B, bins, frames).
            question_input_ids, question_attention_mask: the bare question in BERT's tokens, (B, Q).
            position_ids: (B, L).
            past_key_values: what came before; media belong to the first tokens.
            inputs_embeds: (B, L, H) in the place of `input_ids` and the media; see `HumanOmniModel.embed`.
            labels: (B, L), −100 where no loss is taken; shifted here.
            use_cache: whether `past_key_values` comes back.
            logits_to_keep: of so many last tokens alone, or of these positions; 0 for all.
            kwargs: for the language model, e.g. `output_hidden_states`.

        Raises:
            ValueError: placeholders and features differ in number, or inputs that do not go together.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            question_input_ids=question_input_ids,
            question_attention_mask=question_attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """As transformers does, and the media once: where there is a cache, the first step has read them."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in MEDIA:
                inputs.pop(name, None)
        return inputs
