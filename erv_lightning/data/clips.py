"""From a sample to what a policy reads: decode, augment, encode; and what happens to clips that cannot be used."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset

from erv_lightning.data.augment import augment
from erv_lightning.data.cache import ClipCache
from erv_lightning.data.media import Clip, ClipError, MediaSettings, load_clip
from erv_lightning.data.sample import Sample
from erv_lightning.data.sampler import Draw

Modality = Literal["video", "audio", "text"]
STAND_INS = 20  # tried for one clip that cannot be used; when none of them can, something else is wrong


class PromptEncoder(Protocol):
    """What turns a question and a clip into a prompt; a policy's module hands its own to the data module."""

    @property
    def max_audio_seconds(self) -> float:
        """Longest audio it reads."""

    def encode_prompt(self, question: str, clip: Clip) -> Any:
        """One prompt, with `input_ids` (T,); runs in data workers."""

    def collate(self, ids: Sequence[str], prompts: Sequence[Any]) -> Any:
        """A batch of prompts, with `.to(device)`."""


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be used, and why."""

    id: str
    dataset: str
    clip: str
    record: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """A row of bad_clips.jsonl."""
        return asdict(self)


class ClipBatch:
    """Clips of one step. No dataclass: Lightning would take it apart, and samples are frozen.

    Args:
        samples: the records.
        prompts: what `PromptEncoder.collate` made of them; None where no clip of the batch could be used.
        silent: ids of clips without an audio track, heard as silence.
        bad: clips that could not be used. In training others stand in for them, in evaluation they are left out.
    """

    def __init__(self, samples: list[Sample], prompts: Any, silent: list[str], bad: Sequence[BadClip] = ()) -> None:
        self.samples, self.prompts, self.silent, self.bad = samples, prompts, silent, list(bad)

    def to(self, device: torch.device | str, **kwargs: Any) -> ClipBatch:
        """The same batch with its prompts on another device."""
        prompts = None if self.prompts is None else self.prompts.to(device, **kwargs)
        return ClipBatch(self.samples, prompts, self.silent, self.bad)


@dataclass(frozen=True)
class Item:
    """What the loader makes of one draw.

    Attributes:
        usable: the sample, its prompt, and whether its clip has an audio track; None if left out.
        bad: the clips that could not be used on the way.
    """

    usable: tuple[Sample, Any, bool] | None
    bad: tuple[BadClip, ...] = ()


@dataclass(frozen=True)
class ClipRules:
    """How samples become prompts.

    Attributes:
        media: what is decoded.
        modalities: what the policy gets of a clip; ``text`` is its subtitle.
        max_prompt_tokens: a longer prompt counts as a clip that cannot be used; None: no limit.
        on_bad_clip: ``error`` stops, ``skip`` goes on without it.
        video_transforms, audio_transforms: augmentation of training clips.
        seed: of augmentation and of the choice of stand-ins.
    """

    media: MediaSettings = field(default_factory=MediaSettings)
    modalities: tuple[Modality, ...] = ("video", "audio")
    max_prompt_tokens: int | None = None
    on_bad_clip: Literal["error", "skip"] = "error"
    video_transforms: tuple[nn.Module, ...] = ()
    audio_transforms: tuple[nn.Module, ...] = ()
    seed: int = 0

    def read_by(self, encoder: PromptEncoder) -> ClipRules:
        """The rules with no more sound than an encoder reads."""
        seconds = min(self.media.max_seconds, encoder.max_audio_seconds)
        return replace(self, media=replace(self.media, max_seconds=seconds))


class ClipDataset(Dataset[Item]):
    """One clip an item.

    Args:
        samples: the records.
        encoder: makes the prompts.
        rules: how.
        train: augment, and let others stand in for clips that cannot be used.
        keep: keep items in memory (not the augmented ones).
        cache: decoded clips on disk.
        media: clip and separate sound of a sample, see `ClipSource.media`.
    """

    def __init__(
        self,
        samples: list[Sample],
        encoder: PromptEncoder,
        rules: ClipRules,
        *,
        train: bool,
        keep: bool = False,
        cache: ClipCache | None = None,
        media: Callable[[Sample], tuple[str | bytes, str | bytes]] = lambda sample: (sample.clip, sample.audio),
    ) -> None:
        self.samples, self.encoder, self.rules, self.train = samples, encoder, rules, train
        self.augmented = train and bool(rules.video_transforms or rules.audio_transforms)
        self.kept: dict[int, tuple[Sample, Any, bool]] | None = {} if keep and not self.augmented else None
        self.load, self.media = load_clip if cache is None else cache.load, media
        self._of_dataset: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            self._of_dataset[sample.dataset].append(index)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw | int) -> Item:
        if isinstance(draw, int):  # from an order that is not ours: `trainer.overfit_batches`
            draw = Draw(draw, 0)
        bad: list[BadClip] = []
        for index in self._candidates(draw):
            try:
                return Item(self._usable(index, draw.epoch), tuple(bad))
            except ClipError as error:
                if self.rules.on_bad_clip == "error":
                    raise
                sample = self.samples[index]
                bad.append(BadClip(sample.id, sample.dataset, sample.clip, sample.record, str(error)))
        if self.train:
            raise ClipError(f"none of {len(bad)} clips could be used; the last: {bad[-1].reason}")
        return Item(None, tuple(bad))

    def _candidates(self, draw: Draw) -> Iterator[int]:
        """The sample drawn; in training then others of its data set, the same in every run."""
        yield draw.sample
        if self.train:
            others = self._of_dataset[self.samples[draw.sample].dataset]
            rng = random.Random(f"{self.rules.seed}/{draw.epoch}/{draw.sample}/stand-in")
            yield from rng.sample(others, k=min(STAND_INS, len(others)))

    def _usable(self, index: int, epoch: int) -> tuple[Sample, Any, bool]:
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        sample = self.samples[index]
        record = sample.record or sample.id
        clip = self._clip(sample, record)
        if self.augmented:
            key = f"{self.rules.seed}/{epoch}/{sample.dataset}/{sample.id}"
            clip = augment(clip, self.rules.video_transforms, self.rules.audio_transforms, key)
        prompt = make_prompt(sample, clip, self.encoder, self.rules)
        tokens, most = len(prompt.input_ids), self.rules.max_prompt_tokens
        if most is not None and tokens > most:
            raise ClipError(
                f"the prompt of {record} has {tokens} tokens, more than data.max_prompt_tokens {most}: raise it, or "
                "lower data.num_frames, data.max_pixels or data.max_seconds"
            )
        usable = (sample, prompt, clip.has_audio or clip.audio is None)
        if self.kept is not None:
            self.kept[index] = usable
        return usable

    def _clip(self, sample: Sample, record: str) -> Clip:
        media = self.rules.media
        if not media.video and not media.audio:
            return Clip(None, None, media.sample_rate, 0.0, False, 0.0, (0, 0))
        try:
            clip, audio = self.media(sample)
        except OSError as error:
            raise ClipError(f"clip {sample.clip!r} (from {record}) cannot be fetched: {error}") from error
        return self.load(clip, media, audio=audio, record=record)

    def collate(self, items: Sequence[Item]) -> ClipBatch:
        """A batch of the usable ones."""
        usable = [item.usable for item in items if item.usable is not None]
        samples = [sample for sample, _, _ in usable]
        ids = [sample.id for sample in samples]
        prompts = self.encoder.collate(ids, [prompt for _, prompt, _ in usable]) if usable else None
        silent = [sample.id for sample, _, has_audio in usable if not has_audio]
        return ClipBatch(samples, prompts, silent, [one for item in items for one in item.bad])


def make_prompt(sample: Sample, clip: Clip, encoder: PromptEncoder, rules: ClipRules) -> Any:
    """What the policy reads of a sample.

    Raises:
        ClipError: a clip that the encoder cannot take, or no subtitle where there is nothing else.
    """
    record, question = sample.record or sample.id, sample.question
    if "text" in rules.modalities:
        if sample.subtitle:
            question = f'Subtitle: "{sample.subtitle}"\n{question}'
        elif tuple(rules.modalities) == ("text",):
            raise ClipError(f"{record} has no subtitle, and data.modalities is [text]: take the record out")
    try:
        return encoder.encode_prompt(question, clip)
    except ValueError as error:
        raise ClipError(f"no prompt can be made of {record}: {error}") from error
