"""What every backbone made of a transformers model and its processor shares: adapters, freezing, embeddings, files.

A backbone of this kind is a `Layout`, a constructor that reads model and processor, what the towers make of media, and
the forward of its decoder where that is not the usual one. Knows no chat format and no positions: those are the
business of its prompts.

Legend: P prompts, T prompt tokens, W width of embeddings, H hidden width, V vocabulary.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from erv_lightning.data.clips import PromptEncoder
from erv_lightning.data.media import Clip
from erv_lightning.models.attention import AttentionPlan
from erv_lightning.models.backbone import Backbone, LoraSpec, PromptBatch, PromptFeatures
from erv_lightning.models.four_bit import is_four_bit, unpacked
from erv_lightning.parallel import blocks, trains

Part = Literal["vision", "audio", "language"]
Dtype = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class Layout:
    """Where a transformers model keeps its parts.

    Paths are dotted, from the model; expressions must match whole paths.

    Attributes:
        parts: what a user may freeze, by name → the modules that it is. `language` is the decoder; all others are
            towers, whose features can be kept while they are frozen.
        decoder: the language model that `HuggingFaceBackbone.hidden` runs.
        lora: which linear layers get adapters. Of the decoder only: adapters inside the towers would train what the
            method keeps frozen.
        untrained: parameters that never train.
    """

    parts: Mapping[str, tuple[str, ...]]
    decoder: str
    lora: str
    untrained: str = ""

    @property
    def towers(self) -> list[str]:
        """Paths of what reads media."""
        return [path for part, paths in self.parts.items() if part != "language" for path in paths]

    def modules(self, model: Any, part: str) -> list[nn.Module]:
        """The modules that a part is."""
        return [model.get_submodule(path) for path in self.parts[part]]

    def prepare(self, model: Any, lora: LoraSpec | None = None, freeze: Sequence[str] = ()) -> None:
        """Decides what trains, in place: freezes parts, or everything but the adapters that it adds.

        Raises:
            ValueError: `freeze` names what is no part.
        """
        if unknown := [part for part in freeze if part not in self.parts]:
            raise ValueError(f"freeze knows {', '.join(self.parts)}, not {', '.join(map(repr, unknown))}")
        for name, parameter in model.named_parameters():
            if re.fullmatch(self.untrained, name):
                parameter.requires_grad_(False)
        for module in (one for part in freeze for one in self.modules(model, part)):
            module.requires_grad_(False)
        if lora is not None:
            model.requires_grad_(False)
            # By whole paths: of an expression, PEFT keeps the last words for models with experts, and so would put
            # adapters into the towers, whose layers have the same names.
            targets = [name for name, _ in model.named_modules() if re.fullmatch(self.lora, name)]
            adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
            inject_adapter_in_model(adapter, model)


class Prompts(PromptEncoder, Protocol):
    """What makes a backbone's prompts: a `PromptEncoder`, and what the network needs to know of them.

    Attributes:
        media_tokens: the placeholder of each kind of media, by the names of `PromptBatch.features`.
    """

    media_tokens: dict[str, int]

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """See `Backbone.split`."""

    def check_media(self, batch: PromptBatch) -> None:
        """Raises ValueError if a prompt's placeholders do not match its media; names the samples."""


class HuggingFaceBackbone(Backbone):
    """A transformers model and its processor behind the `Backbone` protocol.

    Args:
        model: with `get_input_embeddings`, `lm_head` and a decoder that follows plans (`follow_plans`).
        processor: with a `tokenizer`, or one itself.
        prompts: makes the prompts.
        lora: train adapters on the decoder instead of its weights.
        freeze: parts that get no gradient. With `lora` everything but the adapters is frozen anyway.
        gradient_checkpointing: recompute decoder activations in the backward pass to save memory.
    """

    layout: ClassVar[Layout]
    _unsayable: Tensor

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompts: Prompts,
        lora: LoraSpec | None,
        freeze: Sequence[str],
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.model, self.processor, self.prompts = model, processor, prompts
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.has_lora = lora is not None
        self.layout.prepare(model, lora, freeze)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.register_buffer("_unsayable", self._find_unsayable(), persistent=False)

    @property
    def decoder(self) -> Any:
        """The language model."""
        return self.model.get_submodule(self.layout.decoder)

    @property
    def towers(self) -> list[nn.Module]:
        """What reads picture and sound."""
        return [self.model.get_submodule(path) for path in self.layout.towers]

    # -- text and special tokens -----------------------------------------------------------------------------

    @property
    def eos_token_id(self) -> int:
        """The tokenizer's end of text: ``<|im_end|>`` for the Qwen models."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's padding: ``<|endoftext|>`` for the Qwen models."""
        return int(self.tokenizer.pad_token_id)

    @property
    def unsayable_ids(self) -> Tensor:
        """Special tokens but the end of the response, and the padding rows of the vocabulary, (K,)."""
        return self._unsayable

    def _find_unsayable(self) -> Tensor:
        config = self.model.config
        placeholders = {getattr(config, f"{kind}_token_id", None) for kind in ("image", "audio", "video")} - {None}
        ids = set(self.tokenizer.all_special_ids) | placeholders | set(self.prompts.media_tokens.values())
        ids |= set(range(len(self.tokenizer), config.get_text_config().vocab_size))
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
        """See the prompts' class, also for the next three."""
        return self.prompts.max_audio_seconds

    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """One prompt from a question and a decoded clip."""
        prompt: PromptFeatures = self.prompts.encode_prompt(question, clip)
        return prompt

    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """A left-padded batch."""
        batch: PromptBatch = self.prompts.collate(ids, prompts)
        return batch

    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one."""
        return self.prompts.split(batch)

    # -- the network -----------------------------------------------------------------------------------------

    @property
    def trains_media(self) -> bool:
        """Whether a tower has a parameter that trains."""
        return trains(self.towers)

    @abstractmethod
    def media_features(self, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the towers make of a batch's media: name, as in the prompts' `media_tokens` → (media tokens, W)."""

    def read_media(self, batch: PromptBatch) -> PromptBatch:
        """The batch with the towers' features in place of the media.

        Raises:
            ValueError: a prompt's media placeholders do not match its features; names the samples.
        """
        self.prompts.check_media(batch)
        return replace(batch, media={}, features=self.media_features(batch.media))

    def embed(self, batch: PromptBatch) -> Tensor:
        """Prompt embeddings with the media features in place, (P, T, W); see `read_media`."""
        features = batch.features or self.read_media(batch).features
        embeds = self.embed_tokens(batch.input_ids)
        for name, values in features.items():
            place = (batch.input_ids == self.prompts.media_tokens[name]).unsqueeze(-1)
            embeds = embeds.masked_scatter(place, values.to(embeds.dtype))
        return embeds

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, any shape → (…, W)."""
        embeds: Tensor = self.model.get_input_embeddings()(token_ids)
        return embeds

    def hidden(
        self, embeds: Tensor, position_ids: Tensor, mask: Tensor | AttentionPlan, cache: Any | None = None
    ) -> Tensor:
        """Decoder states; see `Backbone.hidden`. For decoders that take their masks by kind of layer, as Qwen2's do."""
        states: Tensor = self.decoder(
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

    # -- training and files ----------------------------------------------------------------------------------

    @contextmanager
    def reference(self) -> Iterator[Self]:
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
        """Each decoder layer, adapters apart from frozen weights; a tower whole if it is frozen, else by layer.

        Raises:
            ValueError: the weights are kept in 4 bits, which FSDP2 cannot share out.
        """
        if is_four_bit(self.model):
            raise ValueError(
                "FSDP2 cannot share out weights of 4 bits: leave configs/model/qlora.yaml out, or take "
                "configs/trainer/gpu.yaml or ddp.yaml, where each GPU holds them all"
            )
        made: list[nn.Module | list[nn.Module]] = []
        for tower in self.towers:
            made += [*blocks(tower), tower] if trains([tower]) else [tower]
        for layer in blocks(self.decoder):
            adapters = [
                part for key, part in layer.named_modules() if key.endswith(("lora_A.default", "lora_B.default"))
            ]
            made += [adapters, layer] if adapters else [layer]
        return made

    def trainable(self) -> Iterator[nn.Parameter]:
        """Parameters that receive gradients."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def save(self, folder: Path) -> None:
        """Writes weights and processor so that `from_pretrained` reads them; adapters are merged on a copy.

        Weights kept in 4 bits are written as the plain ones they stand for, which is what the adapters were trained on.
        """
        plain, merged = unpacked(self.model)
        for name in [name for name in merged if "lora_" in name]:
            del merged[name]
        merged = {name.replace(".base_layer", ""): value for name, value in merged.items()}
        for name, layer in self.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                key = f"{name}.weight"
                merged[key] = merged[key] + layer.get_delta_weight("default").to(merged[key].dtype)
        plain.save_pretrained(folder, state_dict=merged)
        self.processor.save_pretrained(folder)


def read_pretrained(pretrained: str, *readers: Callable[[str], Any]) -> list[Any]:
    """What `from_pretrained` methods read from a folder or hub id.

    Raises:
        ValueError: for a folder that is not there: checked before the hub client takes it for a repository's name.
    """
    path = Path(pretrained)
    looks_local = path.is_absolute() or len(path.parts) != 2 or path.parts[0] in {".", "..", "runs"}
    if looks_local and not (path / "config.json").is_file():
        raise ValueError(
            f"no exported model in {pretrained!r}: expected config.json there. Train the stage that makes it "
            "first, or name a Hugging Face folder or hub id."
        )
    try:
        return [reader(pretrained) for reader in readers]
    except OSError as error:
        raise ValueError(f"no policy in {pretrained!r}, neither as a folder nor on the hub: {error}") from error
