"""Qwen2.5-Omni's thinker as a backbone: the 3B, the 7B and the built-in small one run through these lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from erv_lightning.data.media import Clip
from erv_lightning.models.attention import AttentionPlan, follow_plans
from erv_lightning.models.backbone import Backbone, LoraSpec, PromptBatch, PromptFeatures
from erv_lightning.models.qwen_prompts import QwenOmniPrompts, read_pretrained
from erv_lightning.models.tiny import TINY, tiny_policy
from erv_lightning.parallel import blocks, trains

# The parts a user may freeze, by the attribute that holds them.
PARTS = {"vision": "visual", "audio": "audio_tower", "language": "language_model"}
Part = Literal["vision", "audio", "language"]
Dtype = Literal["float32", "bfloat16", "float64"]

# Decoder layers only: adapters inside the towers would train what the method keeps frozen.
LORA_TARGETS = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class QwenOmniBackbone(Backbone):
    """`Qwen2_5OmniThinkerForConditionalGeneration` and its processor behind the `Backbone` protocol.

    Args:
        pretrained: a folder or hub id in Hugging Face's layout, or ``tiny`` for the built-in small model.
        lora: train adapters on the decoder instead of its weights.
        freeze: parts that get no gradient. With `lora` everything but the adapters is frozen anyway.
        dtype: of the weights; float64 is for comparing numerics.
        seed: of the weights of ``tiny``; no meaning elsewhere.
        gradient_checkpointing: recompute decoder activations in the backward pass to save memory.
        use_audio_in_video: sound and picture take turns in the prompt, two seconds at a time, instead of all frames
            coming before all sound. No meaning where one of them is not read.

    Raises:
        ValueError: for a folder that is not there.
    """

    _unsayable: Tensor

    def __init__(
        self,
        pretrained: str = TINY,
        lora: LoraSpec | None = None,
        freeze: Sequence[Part] = (),
        dtype: Dtype = "float32",
        seed: int = 0,
        gradient_checkpointing: bool = False,
        use_audio_in_video: bool = False,
    ) -> None:
        super().__init__()
        if pretrained == TINY:
            self.model, self.processor = tiny_policy(seed)
            self.model.to(getattr(torch, dtype))
        else:
            reader = partial(Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained, dtype=getattr(torch, dtype))
            self.processor, self.model = read_pretrained(pretrained, Qwen2_5OmniProcessor.from_pretrained, reader)
        follow_plans(self.model.model.language_model)
        self.prompts = QwenOmniPrompts(self.processor, self.model.config, use_audio_in_video)
        self.tokenizer = self.processor.tokenizer
        self.has_lora = lora is not None
        # The thinker never reads it, and DDP stops at a parameter that trains without a gradient.
        self.model.model.audio_tower.audio_bos_eos_token.requires_grad_(False)
        for part in freeze:
            getattr(self.model.model, PARTS[part]).requires_grad_(False)
        if lora is not None:
            self.model.requires_grad_(False)
            adapter = LoraConfig(
                r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LORA_TARGETS
            )
            inject_adapter_in_model(adapter, self.model)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.register_buffer("_unsayable", self._find_unsayable(), persistent=False)

    # -- text and special tokens -----------------------------------------------------------------------------

    @property
    def eos_token_id(self) -> int:
        """``<|im_end|>``."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_token_id(self) -> int:
        """``<|endoftext|>``."""
        return int(self.tokenizer.pad_token_id)

    @property
    def unsayable_ids(self) -> Tensor:
        """Special tokens but the end of the response, and the padding rows of the vocabulary, (K,)."""
        return self._unsayable

    def _find_unsayable(self) -> Tensor:
        config = self.model.config
        ids = set(self.tokenizer.all_special_ids) | {
            config.image_token_id,
            config.audio_token_id,
            config.video_token_id,
        }
        ids |= set(range(len(self.tokenizer), config.text_config.vocab_size))
        return torch.tensor(sorted(ids - {self.eos_token_id}))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens dropped."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    # -- prompts ---------------------------------------------------------------------------------------------

    @classmethod
    def prompt_encoder(cls, **init_args: Any) -> QwenOmniPrompts:
        """Makes the same prompts as a backbone of these arguments, from its processor and configuration alone."""
        names = {"pretrained", "use_audio_in_video"}
        return QwenOmniPrompts.from_pretrained(**{name: init_args[name] for name in names & init_args.keys()})

    @property
    def max_audio_seconds(self) -> float:
        """See `QwenOmniPrompts`, also for the next three."""
        return self.prompts.max_audio_seconds

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """One prompt from a question and a decoded clip."""
        return self.prompts.encode_prompt(question, clip)

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """A left-padded batch."""
        return self.prompts.collate(ids, prompts)

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one."""
        return self.prompts.split(batch)

    # -- the network -----------------------------------------------------------------------------------------

    @property
    def trains_media(self) -> bool:
        """Whether a tower has a parameter that trains."""
        thinker = self.model.model
        towers = (getattr(thinker, PARTS["vision"]), getattr(thinker, PARTS["audio"]))
        return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())

    def read_media(self, batch: PromptBatch) -> PromptBatch:
        """The batch with the towers' features in place of the media.

        Raises:
            ValueError: a prompt's media placeholders do not match its features; names the samples.
        """
        self.prompts.check_media(batch)
        thinker, media = self.model.model, batch.media
        features: dict[str, Tensor] = {}
        if "pixel_values_videos" in media:
            seen = thinker.get_video_features(media["pixel_values_videos"], media["video_grid_thw"])
            features["video"] = torch.cat(seen.pooler_output)
        if "input_features" in media:
            mel = media["input_features"].to(self.model.dtype)
            features["audio"] = thinker.get_audio_features(mel, media["feature_attention_mask"]).last_hidden_state
        return replace(batch, media={}, features=features)

    def embed(self, batch: PromptBatch) -> Tensor:
        """Prompt embeddings with the media features in place, (P, T, H); see `read_media`."""
        features = batch.features or self.read_media(batch).features
        embeds = self.embed_tokens(batch.input_ids)
        for name, values in features.items():
            place = (batch.input_ids == self.prompts.media_tokens[name]).unsqueeze(-1)
            embeds = embeds.masked_scatter(place, values.to(embeds.dtype))
        return embeds

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, any shape → (…, H)."""
        embeds: Tensor = self.model.get_input_embeddings()(token_ids)
        return embeds

    def hidden(
        self, embeds: Tensor, position_ids: Tensor, mask: Tensor | AttentionPlan, cache: Any | None = None
    ) -> Tensor:
        """Decoder states; see `Backbone.hidden`."""
        states: Tensor = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=position_ids,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores (…, V)."""
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    # -- adapters and files ----------------------------------------------------------------------------------

    @contextmanager
    def reference(self) -> Iterator[QwenOmniBackbone]:
        """The policy with its adapters switched off: what it was before training.

        Raises:
            ValueError: without adapters the policy's own past is gone; keep a frozen copy instead.
        """
        if not self.has_lora:
            raise ValueError("a policy without LoRA has no reference in itself: keep a frozen copy")
        layers = [layer for layer in self.model.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield self
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def units(self) -> list[nn.Module | list[nn.Module]]:
        """Each decoder layer, adapters apart from frozen weights; a tower whole if it is frozen, else by layer."""
        made: list[nn.Module | list[nn.Module]] = []
        for name in (PARTS["vision"], PARTS["audio"]):
            tower = getattr(self.model.model, name)
            made += [*blocks(tower), tower] if trains([tower]) else [tower]
        for layer in blocks(self.model.model.language_model):
            adapters = [
                part for key, part in layer.named_modules() if key.endswith(("lora_A.default", "lora_B.default"))
            ]
            made += [adapters, layer] if adapters else [layer]
        return made

    def trainable(self) -> Iterator[nn.Parameter]:
        """Parameters that receive gradients."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def save(self, folder: Path) -> None:
        """Writes weights and processor so that `from_pretrained` reads them; adapters are merged on a copy."""
        merged = {}
        for name, value in self.model.state_dict().items():
            if "lora_" not in name:
                merged[name.replace(".base_layer", "")] = value
        for name, layer in self.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                key = f"{name}.weight"
                merged[key] = merged[key] + layer.get_delta_weight("default").to(merged[key].dtype)
        self.model.save_pretrained(folder, state_dict=merged)
        self.processor.save_pretrained(folder)
