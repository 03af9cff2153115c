"""The one data module that all three stages share: clips with their prompts, or the sentences of explanations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from erv_lightning.data.cache import ClipCache
from erv_lightning.data.clips import ClipBatch, ClipDataset, ClipRules, Modality, PromptEncoder
from erv_lightning.data.loader import EpochLoader
from erv_lightning.data.media import MediaSettings
from erv_lightning.data.sample import ClipSource, Sample
from erv_lightning.data.sampler import Draw, EpochSampler
from erv_lightning.labels import LabelSpace, get_label_space
from erv_lightning.text import split_sentences

Part = Literal["train", "val", "test"]
Unit = Literal["clips", "sentences"]
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Sentence:
    """A sentence of an explanation.

    Attributes:
        text: it.
        labels: the emotions that it conveys, names of the label space.
        probs: how likely a teacher finds each label of the space, (labels,), in its order; None where none was asked.
    """

    text: str
    labels: tuple[str, ...]
    probs: tuple[float, ...] | None = None


class SentenceBatch:
    """Sentences of one verifier step. No dataclass, see `ClipBatch`."""

    def __init__(self, sentences: list[Sentence]) -> None:
        self.sentences = sentences

    def __len__(self) -> int:
        return len(self.sentences)

    def to(self, device: torch.device | str, **kwargs: Any) -> SentenceBatch:
        """Itself: text has no device. Lightning asks every batch."""
        return self


def labelled_sentences(samples: Sequence[Sample]) -> list[Sentence]:
    """Every labelled sentence of the samples' explanations, in order.

    Raises:
        ValueError: a sample whose sentence labels, or probabilities, do not match its sentences in number, or its label
            space.
    """
    found = []
    for sample in samples:
        if not sample.sentence_labels:
            continue
        place, space = sample.record or sample.id, sample.space
        sentences = split_sentences(sample.explanation)
        given = {"labels": len(sample.sentence_labels), "probabilities": len(sample.sentence_probs) or len(sentences)}
        for what, count in given.items():
            if count != len(sentences):
                raise ValueError(f"{place}: {count} sentence {what} for {len(sentences)} sentences")
        probs = sample.sentence_probs or [None] * len(sentences)
        unknown = [label for labels in sample.sentence_labels for label in labels or () if space.id(label) < 0]
        if unknown:
            raise ValueError(f"{place}: sentence labels {unknown} are not in {space.name!r}")
        if any(one is not None and len(one) != len(space.names) for one in probs):
            raise ValueError(f"{place}: a probability for each of the {len(space.names)} labels is needed")
        for text, labels, one in zip(sentences, sample.sentence_labels, probs, strict=True):
            if labels is not None:
                found.append(Sentence(text, labels, one))
    return found


class _Sentences(Dataset[Sentence]):
    """Labelled sentences by draw."""

    def __init__(self, sentences: list[Sentence]) -> None:
        self.sentences = sentences

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, draw: Draw | int) -> Sentence:
        return self.sentences[draw if isinstance(draw, int) else draw.sample]


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
        modalities: what the policy gets of a clip, of ``video``, ``audio`` and ``text`` (its subtitle).
        num_frames, fps, frame_size, max_pixels, sample_rate, max_seconds, folder_fps, decoder: see `MediaSettings`.
        max_prompt_tokens: a longer prompt counts as a clip that cannot be used; null: no limit. Nothing is cut off.
        on_bad_clip: ``error`` stops at a clip that cannot be used. ``skip`` names it in the log and in bad_clips.jsonl
            and counts it in the metrics; in training another clip of its data set stands in, in evaluation it is left
            out.
        video_transforms: torchvision.transforms.v2 modules for the frames of training clips.
        audio_transforms: modules for their sound, (S,) → (S,); see `data.augment`.
        keep_in_memory: keep decoded and encoded clips; for small sets, with `num_workers` 0.
        cache: folder for decoded clips, shared by all runs with the same media settings; null: none.
        cache_gb: how large it may grow; the clips used longest ago make room.
        seed: of the order of training samples, augmentation and stand-ins.
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
        modalities: Sequence[Modality] = ("video", "audio"),
        num_frames: int = 8,
        fps: float | None = None,
        frame_size: tuple[int, int] | None = None,
        max_pixels: int | None = None,
        sample_rate: int = 16000,
        max_seconds: float = 30.0,
        folder_fps: float = 25.0,
        decoder: Literal["auto", "torchcodec", "pyav"] = "pyav",
        max_prompt_tokens: int | None = None,
        on_bad_clip: Literal["error", "skip"] = "error",
        video_transforms: Sequence[nn.Module] = (),
        audio_transforms: Sequence[nn.Module] = (),
        keep_in_memory: bool = False,
        cache: str | None = None,
        cache_gb: float = 50.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limits: dict[str, tuple[float | None, float]] = {
            "batch_size": (batch_size, 1),
            "eval_batch_size": (eval_batch_size, 1),
            "num_workers": (num_workers, 0),
            "max_prompt_tokens": (max_prompt_tokens, 1),
            "num_frames": (num_frames, 1),
            "max_pixels": (max_pixels, 1),
            "sample_rate": (sample_rate, 1),
        }
        wrong = [
            f"data.{name} is {count}: it must be at least {least}"
            for name, (count, least) in limits.items()
            if count is not None and count < least
        ]
        if not modalities:
            wrong.append("data.modalities is empty: name video, audio or text")
        above = {"fps": fps, "max_seconds": max_seconds, "folder_fps": folder_fps, "cache_gb": cache_gb}
        wrong += [
            f"data.{name} is {value}: it must be above 0"
            for name, value in above.items()
            if value is not None and value <= 0
        ]
        if keep_in_memory and num_workers:
            wrong.append("data.keep_in_memory needs data.num_workers 0: workers do not share what they keep")
        if wrong:
            raise ValueError("; ".join(wrong))
        self.source, self.unit = source, unit
        self.splits: dict[Part, str] = {"train": train_split, "val": val_split, "test": test_split}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.keep_in_memory, self.seed = num_workers, keep_in_memory, seed
        media = MediaSettings(
            num_frames=num_frames,
            fps=fps,
            frame_size=None if frame_size is None else (frame_size[0], frame_size[1]),
            max_pixels=max_pixels,
            sample_rate=sample_rate,
            max_seconds=max_seconds,
            folder_fps=folder_fps,
            decoder=decoder,
            video="video" in modalities,
            audio="audio" in modalities,
        )
        self.rules = ClipRules(
            media,
            tuple(modalities),
            max_prompt_tokens,
            on_bad_clip,
            tuple(video_transforms),
            tuple(audio_transforms),
            seed,
        )
        self.cache = None if cache is None else ClipCache(cache, int(cache_gb * 1e9))
        self.encoder: PromptEncoder | None = None
        self._samples: dict[Part, list[Sample]] = {}
        self._datasets: dict[Part, ClipDataset] = {}

    # -- what modules ask ------------------------------------------------------------------------------------

    def samples(self, part: Part) -> list[Sample]:
        """The samples of a part, read once."""
        if part not in self._samples:
            self._samples[part] = self.source.samples(self.splits[part])
        return self._samples[part]

    def sentences(self, part: Part) -> list[Sentence]:
        """The labelled sentences of a part.

        Raises:
            ValueError: there are none.
        """
        sentences = labelled_sentences(self.samples(part))
        if not sentences:
            raise ValueError(
                f"the {self.splits[part]!r} split has no labelled sentences for the verifier to learn from"
            )
        return sentences

    def label_spaces(self, part: Part = "train") -> dict[str, LabelSpace]:
        """The label space of each data set of a part, in the order of its samples.

        Raises:
            ValueError: a part without samples, or a data set with several label spaces.
        """
        spaces: dict[str, str] = {}
        for sample in self.samples(part):
            if spaces.setdefault(sample.dataset, sample.label_space) != sample.label_space:
                raise ValueError(
                    f"{sample.record or sample.id}: the data set {sample.dataset!r} has the label spaces "
                    f"{spaces[sample.dataset]!r} and {sample.label_space!r}: give each a dataset name of its own"
                )
        if not spaces:
            raise ValueError(f"the {self.splits[part]!r} split has no samples: check data.source and data.{part}_split")
        return {dataset: get_label_space(name) for dataset, name in spaces.items()}

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the training samples, for a stage that can have but one.

        Raises:
            ValueError: samples of several label spaces.
        """
        names = {space.name for space in self.label_spaces().values()}
        if len(names) != 1:
            raise ValueError(f"one label space a run, the samples have {sorted(names)}")
        return get_label_space(names.pop())

    def draw(self, count: int, key: str) -> ClipBatch:
        """Training clips beside the epoch's order, for GRPO to try in place of prompts that taught nothing.

        Args:
            count: how many.
            key: which: the clips are a pure function of it and of `seed`, so that a resumed run draws the same.
        """
        dataset = self.clips("train")
        order = random.Random(f"{self.seed}/{key}").sample(range(len(dataset)), k=min(count, len(dataset)))
        return dataset.collate([dataset[Draw(index, 0)] for index in order])

    # -- Lightning's hooks -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Makes the source ready, once per node."""
        self.source.prepare()

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; an incomplete last batch is dropped."""
        return self._loader("train", self.batch_size or DEFAULT_BATCH)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def _loader(self, part: Part, batch_size: int) -> DataLoader[Any]:
        data: Dataset[Any]
        if self.unit == "clips":
            data = clips = self.clips(part)
            collate, weights = clips.collate, [sample.weight for sample in clips.samples]
        else:
            sentences = self.sentences(part)
            data, collate, weights = _Sentences(sentences), SentenceBatch, [1.0] * len(sentences)  # type: ignore[assignment]
        train = part == "train"
        trainer = self.trainer
        sampler = EpochSampler(
            weights if train else [1.0] * len(weights),
            seed=self.seed,
            shuffle=train,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            even=train,
            blocks=self.source.blocks(self.splits[part]) if train and self.unit == "clips" else None,
        )
        if train and len(sampler) < batch_size:
            raise ValueError(
                f"the {self.splits[part]!r} split gives {len(sampler)} samples per process, fewer than one batch of "
                f"{batch_size}: lower data.batch_size, or for GRPO prompts_per_step"
            )
        workers = self.num_workers if self.unit == "clips" else 0
        loader = EpochLoader(
            data,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            drop_last=train,
            # its own: a loader draws a seed for its workers, and evaluation must not move the global random state
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=workers > 0,
            # fork: workers need the processor only, and share the policy's memory instead of pickling it
            multiprocessing_context="fork" if workers else None,
        )
        # augmentation borrows the global random state, which the thread that trains would miss
        loader.ahead = isinstance(data, ClipDataset) and not data.augmented
        return loader

    def clips(self, part: Part) -> ClipDataset:
        """The clips of a part with their prompts.

        Raises:
            ValueError: no policy has set an encoder.
        """
        if self.encoder is None:
            raise ValueError("data.unit is 'clips' but no policy has set an encoder: is this a verifier's config?")
        if part not in self._datasets or self._datasets[part].encoder is not self.encoder:
            self._datasets[part] = ClipDataset(
                self.samples(part),
                self.encoder,
                self.rules.read_by(self.encoder),
                train=part == "train",
                keep=self.keep_in_memory,
                cache=self.cache,
                media=self.source.media,
            )
        return self._datasets[part]
