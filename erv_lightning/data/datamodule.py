"""The one data module that all three stages share: clips with their prompts, or the sentences of explanations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from erv_lightning.data.media import Clip, MediaSettings, load_clip
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.data.sampler import EpochSampler
from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.text import split_sentences

Unit = Literal["clips", "sentences"]
DEFAULT_BATCH = 8


class PromptEncoder(Protocol):
    """What turns a question and a clip into a prompt; a policy's module hands its own to the data module."""

    @property
    def max_audio_seconds(self) -> float:
        """Longest audio it reads."""

    def encode_prompt(self, question: str, clip: Clip) -> Any:
        """One prompt; runs in data workers."""

    def collate(self, ids: Sequence[str], prompts: Sequence[Any]) -> Any:
        """A batch of prompts, with `.to(device)`."""


@dataclass
class ClipBatch:
    """Clips of one step.

    Attributes:
        samples: the records.
        prompts: what `PromptEncoder.collate` made of them.
        silent: ids of clips without an audio track, heard as silence.
    """

    samples: list[Sample]
    prompts: Any
    silent: list[str]

    def to(self, device: torch.device | str, **kwargs: Any) -> ClipBatch:
        """The same batch with its prompts on another device."""
        return replace(self, prompts=self.prompts.to(device, **kwargs))


@dataclass(frozen=True)
class Sentence:
    """A sentence of an explanation and the emotions it conveys (names of the label space)."""

    text: str
    labels: tuple[str, ...]


@dataclass
class SentenceBatch:
    """Sentences of one verifier step."""

    sentences: list[Sentence]

    def __len__(self) -> int:
        return len(self.sentences)

    def to(self, device: torch.device | str, **kwargs: Any) -> SentenceBatch:
        """Itself: text has no device. Lightning asks every batch."""
        return self


def labelled_sentences(samples: Sequence[Sample]) -> list[Sentence]:
    """Every labelled sentence of the samples' explanations, in order.

    Raises:
        ValueError: a sample whose sentence labels do not match its sentences in number, or its label space.
    """
    found = []
    for sample in samples:
        if not sample.sentence_labels:
            continue
        sentences = split_sentences(sample.explanation)
        if len(sentences) != len(sample.sentence_labels):
            raise ValueError(
                f"{sample.record or sample.id}: {len(sample.sentence_labels)} sentence labels for "
                f"{len(sentences)} sentences"
            )
        pairs = list(zip(sentences, sample.sentence_labels, strict=True))
        space = get_label_space(sample.label_space)
        unknown = [label for _, labels in pairs for label in labels or () if space.id(label) < 0]
        if unknown:
            raise ValueError(f"{sample.record or sample.id}: sentence labels {unknown} are not in {space.name!r}")
        found += [Sentence(text, labels) for text, labels in pairs if labels is not None]
    return found


class _ClipDataset(Dataset[tuple[Sample, Any, bool]]):
    """Decodes and encodes one clip an item; keeps the result where memory allows."""

    def __init__(self, samples: list[Sample], encoder: PromptEncoder, media: MediaSettings, keep: bool) -> None:
        self.samples, self.encoder, self.media = samples, encoder, media
        self.kept: dict[int, tuple[Sample, Any, bool]] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, Any, bool]:
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        sample = self.samples[index]
        clip = load_clip(sample.clip, self.media, audio=sample.audio, record=sample.record or sample.id)
        item = (sample, self.encoder.encode_prompt(sample.question, clip), clip.has_audio)
        if self.kept is not None:
            self.kept[index] = item
        return item

    def collate(self, items: list[tuple[Sample, Any, bool]]) -> ClipBatch:
        samples = [sample for sample, _, _ in items]
        prompts = self.encoder.collate([sample.id for sample in samples], [prompt for _, prompt, _ in items])
        return ClipBatch(samples, prompts, [sample.id for sample, _, has_audio in items if not has_audio])


class ClipDataModule(L.LightningDataModule):
    """Clips (for policies) or labelled sentences (for the verifier) of one source.

    Args:
        source: where the samples come from.
        unit: ``clips`` gives `ClipBatch`, ``sentences`` gives `SentenceBatch`.
        train_split, val_split, test_split: names of the source's splits. GRPO learns on other clips than the
            cold start: a policy that knows its clips by heart gets equal rewards and no gradient.
        batch_size: samples a training step and device, 8 if null. GRPO's own word for it is `prompts_per_step`.
        eval_batch_size: samples a validation, test or prediction step and device.
        num_workers: processes that decode; 0 decodes in the training process.
        num_frames: frames a clip, at the mid-points of equal segments.
        frame_size: height and width in pixels, null for the clip's own.
        sample_rate: of the audio, in Hz.
        max_seconds: audio beyond is cut.
        keep_in_memory: keep decoded and encoded clips; for small sets, with `num_workers` 0.
        seed: of the order of training samples.
    """

    def __init__(
        self,
        source: ClipSource,
        unit: Unit = "clips",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        batch_size: int | None = None,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        num_frames: int = 8,
        frame_size: tuple[int, int] | None = None,
        sample_rate: int = 16000,
        max_seconds: float = 30.0,
        keep_in_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {
            "batch_size": DEFAULT_BATCH if batch_size is None else batch_size,
            "eval_batch_size": eval_batch_size,
            "num_frames": num_frames,
        }
        if wrong := [f"data.{name} is {count}" for name, count in counts.items() if count < 1]:
            raise ValueError(f"{', '.join(wrong)}: it must be at least 1")
        if keep_in_memory and num_workers:
            raise ValueError("data.keep_in_memory needs data.num_workers 0: workers do not share what they keep")
        self.source, self.unit = source, unit
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.keep_in_memory, self.seed = num_workers, keep_in_memory, seed
        self.num_frames, self.frame_size = num_frames, frame_size
        self.sample_rate, self.max_seconds = sample_rate, max_seconds
        self.encoder: PromptEncoder | None = None
        self._samples: dict[str, list[Sample]] = {}
        self._datasets: dict[str, _ClipDataset] = {}

    # -- what modules ask ------------------------------------------------------------------------------------

    def samples(self, part: Literal["train", "val", "test"]) -> list[Sample]:
        """The samples of a part, read once."""
        if part not in self._samples:
            self._samples[part] = self.source.samples(self.splits[part])
        return self._samples[part]

    def sentences(self, part: Literal["train", "val", "test"]) -> list[Sentence]:
        """The labelled sentences of a part."""
        return labelled_sentences(self.samples(part))

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the training samples.

        Raises:
            ValueError: samples of several label spaces.
        """
        names = {sample.label_space for sample in self.samples("train")}
        if not names:
            raise ValueError(
                f"the {self.splits['train']!r} split has no samples: check data.source and data.train_split"
            )
        if len(names) != 1:
            raise ValueError(f"one label space a run, the samples have {sorted(names)}")
        return get_label_space(names.pop())

    def draw(self, count: int, key: str) -> ClipBatch:
        """Training clips beside the epoch's order, for GRPO to try in place of prompts that taught nothing.

        Args:
            count: how many.
            key: which: the clips are a pure function of it and of `seed`, so that a resumed run draws the same.
        """
        dataset, _ = self._dataset("train")
        assert isinstance(dataset, _ClipDataset)
        order = random.Random(f"{self.seed}/{key}").sample(range(len(dataset)), k=min(count, len(dataset)))
        return dataset.collate([dataset[index] for index in order])

    # -- Lightning's hooks -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Makes the source ready, once per node."""
        self.source.prepare()

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; an incomplete last batch is dropped."""
        return self._loader("train", self.batch_size or DEFAULT_BATCH, train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._loader("val", self.eval_batch_size, train=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._loader("test", self.eval_batch_size, train=False)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def _loader(self, part: Literal["train", "val", "test"], batch_size: int, train: bool) -> DataLoader[Any]:
        data, collate = self._dataset(part)
        trainer = self.trainer
        sampler = EpochSampler(
            len(data),  # type: ignore[arg-type]
            seed=self.seed,
            shuffle=train,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            even=train,
        )
        if train and len(sampler) < batch_size:
            raise ValueError(
                f"the {self.splits[part]!r} split gives {len(sampler)} samples per process, fewer than one batch of "
                f"{batch_size}: lower data.batch_size, or for GRPO prompts_per_step"
            )
        return DataLoader(
            data,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers if self.unit == "clips" else 0,
            collate_fn=collate,
            drop_last=train,
            # its own: a loader draws a seed for its workers, and evaluation must not move the global random state
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.num_workers > 0 and self.unit == "clips",
            # fork: workers need the processor only, and share the policy's memory instead of pickling it
            multiprocessing_context="fork" if self.num_workers and self.unit == "clips" else None,
        )

    def _dataset(self, part: Literal["train", "val", "test"]) -> tuple[Dataset[Any], Any]:
        if self.unit == "sentences":
            sentences = self.sentences(part)
            if not sentences:
                raise ValueError(
                    f"the {self.splits[part]!r} split has no labelled sentences for the verifier to learn from"
                )
            return sentences, SentenceBatch  # type: ignore[return-value]
        if self.encoder is None:
            raise ValueError("data.unit is 'clips' but no policy has set an encoder: is this a verifier's config?")
        if part not in self._datasets or self._datasets[part].encoder is not self.encoder:
            media = MediaSettings(
                num_frames=self.num_frames,
                frame_size=self.frame_size,
                sample_rate=self.sample_rate,
                max_seconds=min(self.max_seconds, self.encoder.max_audio_seconds),
            )
            self._datasets[part] = _ClipDataset(self.samples(part), self.encoder, media, self.keep_in_memory)
        dataset = self._datasets[part]
        return dataset, dataset.collate


def warn_of_silence(batch: ClipBatch, seen: set[str]) -> int:
    """Names each clip without audio once in the log; returns how many the batch has."""
    for sample in batch.silent:
        if sample not in seen:
            seen.add(sample)
            rank_zero_warn(f"clip of sample {sample!r} has no audio track: silence is heard instead")
    return len(batch.silent)
