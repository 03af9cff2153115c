"""Qwen2.5-Omni's thinker as a backbone: the 3B, the 7B and the built-in small one run through these lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from erv_lightning.models.tiny import TINY, tiny_policy

# The parts a user may freeze, by the attribute that holds them.
PARTS = {"vision": "visual", "audio": "audio_tower", "language": "language_model"}
AUDIO_INPUTS = {"input_features", "feature_attention_mask"}  # padded to the longest clip of a batch
Part = Literal["vision", "audio", "language"]
Dtype = Literal["float32", "bfloat16"]

# Decoder layers only: adapters inside the towers would train what the method keeps frozen.
LORA_TARGETS = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class QwenOmniBackbone(Backbone):
    """`Qwen2_5OmniThinkerForConditionalGeneration` and its processor behind the `Backbone` protocol.

    Args:
        pretrained: a folder or hub id in Hugging Face's layout, or ``tiny`` for the built-in small model.
        lora: train adapters on the decoder instead of its weights.
        freeze: parts that get no gradient. With `lora` everything but the adapters is frozen anyway.
        dtype: of the weights.
        seed: of the weights of ``tiny``; no meaning elsewhere.
        gradient_checkpointing: recompute decoder activations in the backward pass to save memory.

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
    ) -> None:
        super().__init__()
        if pretrained == TINY:
            self.model, self.processor = tiny_policy(seed)
            self.model.to(getattr(torch, dtype))
        else:
            _check_folder(pretrained)
            try:
                self.processor = Qwen2_5OmniProcessor.from_pretrained(pretrained)
                self.model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
                    pretrained, dtype=getattr(torch, dtype)
                )
            except OSError as error:
                raise ValueError(f"no policy in {pretrained!r}, neither as a folder nor on the hub: {error}") from error
        follow_plans(self.model.model.language_model)
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

    @property
    def max_audio_seconds(self) -> float:
        """What the Whisper front end takes before it cuts."""
        return float(self.processor.feature_extractor.chunk_length)

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """Chat template, media features and rope positions of one clip and its question."""
        assert clip.frames is not None
        assert clip.audio is not None
        content = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        encoded = self.processor(
            text=[text],
            videos=[clip.frames],
            audio=[clip.audio.numpy()],
            videos_kwargs={
                "do_sample_frames": False,
                "fps": clip.fps,
                # Without this the processor scales every frame to 100,000 pixels and more, whatever was asked for.
                "size": dict(self.processor.video_processor.size),
            },
            return_tensors="pt",
        )
        # The front end pads every clip to its full window (300 s in the released models): keep what is heard.
        heard = int(encoded["feature_attention_mask"].sum())
        seconds = torch.as_tensor(encoded["video_second_per_grid"], dtype=torch.float32)
        media = {
            "pixel_values_videos": encoded["pixel_values_videos"],
            "video_grid_thw": encoded["video_grid_thw"],
            "input_features": encoded["input_features"][:, :, :heard],
            "feature_attention_mask": encoded["feature_attention_mask"][:, :heard],
        }
        position_ids, _ = self.model.model.get_rope_index(
            encoded["input_ids"],
            None,
            media["video_grid_thw"],
            encoded["attention_mask"],
            False,
            media["feature_attention_mask"].sum(-1),
            seconds,
        )
        return PromptFeatures(encoded["input_ids"][0], position_ids[:, 0], media)

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """Left-pads prompts and concatenates their media, or their features where the towers have run."""
        width = max(len(prompt.input_ids) for prompt in prompts)
        rows, masks, positions = [], [], []
        for prompt in prompts:
            pad = width - len(prompt.input_ids)
            rows.append(nn.functional.pad(prompt.input_ids, (pad, 0), value=self.pad_token_id))
            masks.append(nn.functional.pad(torch.ones_like(prompt.input_ids), (pad, 0)))
            positions.append(nn.functional.pad(prompt.position_ids, (pad, 0)))
        batch = PromptBatch(list(ids), torch.stack(rows), torch.stack(masks), torch.stack(positions, dim=1))
        for name in prompts[0].features:
            batch.features[name] = torch.cat([prompt.features[name] for prompt in prompts])
        for name in prompts[0].media:
            values = [prompt.media[name] for prompt in prompts]
            if name in AUDIO_INPUTS:
                frames = max(value.shape[-1] for value in values)
                values = [_pad_last(value, frames) for value in values]
            batch.media[name] = torch.cat(values)
        return batch

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one; see `Backbone.split`."""
        count = len(batch.ids)
        parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
        if batch.media:
            patches = batch.media["video_grid_thw"].prod(-1).tolist()
            heard = batch.media["feature_attention_mask"].sum(-1).tolist()
            sizes = {"pixel_values_videos": patches}
            for name, value in batch.media.items():
                for part, piece, frames in zip(parts, torch.split(value, sizes.get(name, 1)), heard, strict=True):
                    part[name] = piece[..., :frames] if name in AUDIO_INPUTS else piece
        features: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for name, value in batch.features.items():
            tokens = (batch.input_ids == self._media_tokens[name]).sum(1).tolist()
            for one, piece in zip(features, torch.split(value, tokens), strict=True):
                one[name] = piece
        lengths = batch.attention_mask.sum(1).tolist()
        return [
            PromptFeatures(batch.input_ids[p, -length:], batch.position_ids[:, p, -length:], parts[p], features[p])
            for p, length in enumerate(lengths)
        ]

    # -- the network -----------------------------------------------------------------------------------------

    @property
    def trains_media(self) -> bool:
        """Whether a tower has a parameter that trains."""
        thinker = self.model.model
        towers = (getattr(thinker, PARTS["vision"]), getattr(thinker, PARTS["audio"]))
        return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())

    @property
    def _media_tokens(self) -> dict[str, int]:
        return {"video": self.model.config.video_token_id, "audio": self.model.config.audio_token_id}

    def read_media(self, batch: PromptBatch) -> PromptBatch:
        """The batch with the towers' features in place of the media.

        Raises:
            ValueError: a prompt's media placeholders do not match its features; names the samples.
        """
        self._check_media(batch)
        thinker = self.model.model
        video = thinker.get_video_features(
            batch.media["pixel_values_videos"], batch.media["video_grid_thw"]
        ).pooler_output
        audio = thinker.get_audio_features(
            batch.media["input_features"].to(self.model.dtype), batch.media["feature_attention_mask"]
        ).last_hidden_state
        return replace(batch, media={}, features={"video": torch.cat(video), "audio": audio})

    def embed(self, batch: PromptBatch) -> Tensor:
        """Prompt embeddings with the media features in place, (P, T, H); see `read_media`."""
        features = batch.features or self.read_media(batch).features
        embeds = self.embed_tokens(batch.input_ids)
        for name, token in self._media_tokens.items():
            place = (batch.input_ids == token).unsqueeze(-1)
            embeds = embeds.masked_scatter(place, features[name].to(embeds.dtype))
        return embeds

    def _check_media(self, batch: PromptBatch) -> None:
        config = self.model.config
        merge = config.vision_config.spatial_merge_size**2
        video = batch.media["video_grid_thw"].prod(-1) // merge
        audio_lengths = batch.media["feature_attention_mask"].sum(-1)
        _, audio = self.model.model.audio_tower._get_feat_extract_output_lengths(audio_lengths)
        problems = []
        for name, features in (("video", video), ("audio", audio)):
            tokens = (batch.input_ids == self._media_tokens[name]).sum(1)
            for sample, have, want in zip(batch.ids, tokens.tolist(), features.tolist(), strict=True):
                if have != want:
                    problems.append(f"sample {sample!r}: {have} {name} tokens in the prompt, {want} features")
        if problems:
            raise ValueError(
                "media tokens and features differ: "
                + "; ".join(problems)
                + ". Was the prompt truncated, or does its text hold a media token?"
            )

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


def _pad_last(value: Tensor, width: int) -> Tensor:
    return nn.functional.pad(value, (0, width - value.shape[-1]))


def _check_folder(pretrained: str) -> None:
    """Rejects a path that is not there before the hub client takes it for a repository's name."""
    path = Path(pretrained)
    looks_local = path.is_absolute() or len(path.parts) != 2 or path.parts[0] in {".", "..", "runs"}
    if looks_local and not (path / "config.json").is_file():
        raise ValueError(
            f"no exported model in {pretrained!r}: expected config.json there. Train the stage that makes it "
            "first, or name a Hugging Face folder or hub id."
        )
