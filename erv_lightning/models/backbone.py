"""What the rest of the code needs from a multimodal language model, and the two records that travel to it.

Legend: P prompts, T prompt tokens, H hidden width, V vocabulary, S positions attended to. W is the width of embeddings:
H, or more for a decoder that is given more of a token than one row.
A backbone knows its processor, its media towers and its chat format. It knows no data set, loss or reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erv_lightning.data.media import Clip
from erv_lightning.models.attention import AttentionPlan

if TYPE_CHECKING:
    from erv_lightning.data.clips import PromptEncoder


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters on the decoder's linear layers.

    Attributes:
        rank: rank of the update.
        alpha: scale; the update is multiplied by alpha / rank.
        dropout: dropout on the adapter's input, in [0, 1).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass
class PromptFeatures:
    """One encoded prompt on the CPU, made where the clip is decoded.

    Attributes:
        input_ids: token ids with every media placeholder repeated once per feature, shape (T,).
        position_ids: rope positions, whole or fractions, shape (3, T): time, height, width.
        media: what the towers read, each with a leading axis that concatenates over prompts.
        features: what the towers made of it, once they have run: name → (media tokens, W).
    """

    input_ids: Tensor
    position_ids: Tensor
    media: dict[str, Tensor]
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class PromptBatch:
    """Several prompts, left-padded.

    Attributes:
        ids: sample ids, for error messages.
        input_ids, attention_mask: (P, T); the mask is 1 on real tokens.
        position_ids: (3, P, T).
        media: concatenated media of all prompts.
        features: what the towers made of them, in the order of the prompts; empty until `Backbone.read_media`.
    """

    ids: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    media: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PromptBatch:
        """The same batch on another device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=non_blocking)

        return replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            position_ids=move(self.position_ids),
            media={name: move(value) for name, value in self.media.items()},
            features={name: move(value) for name, value in self.features.items()},
        )

    @classmethod
    def padded(cls, ids: Sequence[str], prompts: Sequence[PromptFeatures], pad_token_id: int) -> PromptBatch:
        """A left-padded batch with what the towers made of the media, if they have run. The media are left out: how
        those of several prompts go together is the backbone's business.

        Raises:
            ValueError: prompts that hold different media, see `check_same_media`.
        """
        check_same_media(ids, prompts)
        width = max(len(prompt.input_ids) for prompt in prompts)
        rows, masks, positions = [], [], []
        for prompt in prompts:
            pad = (width - len(prompt.input_ids), 0)
            rows.append(nn.functional.pad(prompt.input_ids, pad, value=pad_token_id))
            masks.append(nn.functional.pad(torch.ones_like(prompt.input_ids), pad))
            positions.append(nn.functional.pad(prompt.position_ids, pad))
        features = {name: torch.cat([prompt.features[name] for prompt in prompts]) for name in prompts[0].features}
        return cls(list(ids), torch.stack(rows), torch.stack(masks), torch.stack(positions, dim=1), features=features)

    def unpadded(self, media: Sequence[dict[str, Tensor]], media_tokens: Mapping[str, int]) -> list[PromptFeatures]:
        """The prompts one by one, with their own media: the inverse of `padded`.

        Args:
            media: of each prompt.
            media_tokens: placeholder of each kind of features.
        """
        features: list[dict[str, Tensor]] = [{} for _ in self.ids]
        for name, value in self.features.items():
            tokens = (self.input_ids == media_tokens[name]).sum(1).tolist()
            for one, piece in zip(features, torch.split(value, tokens), strict=True):
                one[name] = piece
        return [
            PromptFeatures(self.input_ids[p, -length:], self.position_ids[:, p, -length:], media[p], features[p])
            for p, length in enumerate(self.attention_mask.sum(1).tolist())
        ]

    def check_placeholders(self, media_tokens: Mapping[str, int], features: Mapping[str, Sequence[int]]) -> None:
        """Whether each prompt has a placeholder for each of its features.

        Args:
            media_tokens: placeholder of each kind of features.
            features: kind → how many the towers make for each prompt; a kind that is left out has none.

        Raises:
            ValueError: it has not; names the samples.
        """
        problems = []
        for name, token in media_tokens.items():
            tokens = (self.input_ids == token).sum(1).tolist()
            for sample, have, want in zip(self.ids, tokens, features.get(name, [0] * len(tokens)), strict=True):
                if have != want:
                    problems.append(f"sample {sample!r}: {have} {name} tokens in the prompt, {want} features")
        if problems:
            hint = "Was the prompt truncated, or does its text hold a media token?"
            raise ValueError(f"media tokens and features differ: {'; '.join(problems)}. {hint}")

    @property
    def next_position(self) -> Tensor:
        """The rope position of the first token after each prompt, shape (P,).

        One past the largest of the three axes: how Qwen2.5-Omni and Qwen3-Omni go on with text after media.
        """
        return self.position_ids.masked_fill(self.attention_mask == 0, 0).amax(dim=(0, 2)) + 1


def check_same_media(ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> None:
    """Raises ValueError if prompts that are to share a batch differ in what they hold: video, audio, or neither."""
    held = [(*prompt.media, *prompt.features) for prompt in prompts]
    for sample, names in zip(ids, held, strict=True):
        if names != held[0]:
            first, other = (", ".join(each) or "text alone" for each in (held[0], names))
            raise ValueError(
                f"prompts of one batch must hold the same media: sample {ids[0]!r} has {first}; "
                f"sample {sample!r} has {other}"
            )


class Backbone(nn.Module, ABC):
    """A multimodal language model that reads clips once and then works on embeddings.

    A new backbone is one file that implements this, mostly by way of `HuggingFaceBackbone`; see CONTRIBUTING.md.
    """

    model: Any  # a transformers model: no types come with it
    has_lora: bool = False
    ways_in: tuple[str, ...] = (
        "read_media",
        "embed",
        "embed_tokens",
        "hidden",
    )  # methods before which weights are gathered
    shares_prefixes: bool = True  # `hidden` takes an `AttentionPlan`; see `follow_plans`

    @property
    @abstractmethod
    def eos_token_id(self) -> int:
        """The token that ends a response."""

    @property
    @abstractmethod
    def pad_token_id(self) -> int:
        """The token that fills short rows."""

    @property
    @abstractmethod
    def unsayable_ids(self) -> Tensor:
        """Token ids that sampling must never produce: media placeholders and other special tokens, (K,)."""

    @classmethod
    def prompt_encoder(cls, **init_args: Any) -> PromptEncoder:
        """What makes the prompts of a backbone of these arguments, where no model is wanted: to count or check them.

        Here it is the whole backbone. Override it where prompts need no weights.
        """
        return cls(**init_args)

    @property
    @abstractmethod
    def max_audio_seconds(self) -> float:
        """Longest audio that the tower reads, in seconds."""

    @abstractmethod
    def encode_prompt(self, question: str, clip: Clip) -> PromptFeatures:
        """One prompt from a question and a decoded clip; runs in data workers."""

    @abstractmethod
    def collate(self, ids: Sequence[str], prompts: Sequence[PromptFeatures]) -> PromptBatch:
        """A left-padded batch."""

    @abstractmethod
    def split(self, batch: PromptBatch) -> list[PromptFeatures]:
        """The prompts of a batch, one by one: the inverse of `collate`."""

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens added."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens dropped."""

    @property
    @abstractmethod
    def trains_media(self) -> bool:
        """Whether training changes what the towers make of a clip."""

    @abstractmethod
    def read_media(self, batch: PromptBatch) -> PromptBatch:
        """The batch with the towers' features in place of the media. The towers run here and only here."""

    @abstractmethod
    def embed(self, batch: PromptBatch) -> Tensor:
        """Prompt embeddings with the media features in place, (P, T, W). Reads the media unless that has been done."""

    @abstractmethod
    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, any shape → (…, W)."""

    @abstractmethod
    def hidden(
        self, embeds: Tensor, position_ids: Tensor, mask: Tensor | AttentionPlan, cache: Any | None = None
    ) -> Tensor:
        """Decoder states (rows, tokens, H) of embeddings.

        Args:
            embeds: (rows, tokens, W).
            position_ids: (3, rows, tokens).
            mask: boolean, (rows, 1, tokens, S): True where a token may attend. Or, where `shares_prefixes`, a plan.
            cache: key-value cache in transformers' format, updated in place.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores (…, V) of decoder states (…, H)."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[Backbone]:
        """A context in which the policy is the reference policy. Raises if there is none to give."""

    @abstractmethod
    def trainable(self) -> Iterator[nn.Parameter]:
        """Parameters that receive gradients."""

    def units(self) -> list[nn.Module | list[nn.Module]]:
        """What FSDP2 gathers together, inner parts before the ones around them: layers as a rule.

        Without any, the whole model is gathered at once.
        """
        return []

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes weights (adapters merged) and processor in Hugging Face's layout."""
