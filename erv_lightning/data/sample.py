"""What one annotated clip is, and what a source of them must offer. Nothing here decodes or tokenises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from erv_lightning.labels import LabelSpace, get_label_space

QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the "
    "most obvious to you?\nOutput the thinking process in <think> </think> and final emotion in <answer> "
    "</answer> tags."
)
"""The question of R1-Omni and ERV, which names no labels."""


@dataclass(frozen=True)
class Sample:
    """One annotated clip.

    Attributes:
        id: unique within its data set.
        dataset: name of the data set, e.g. ``dfew``.
        clip: path of the media file, or of a folder of frames.
        question: what the policy is asked.
        label_space: name of the label space, see `erv_lightning.labels.get_label_space`.
        label: the true emotion, a name of that space.
        split: the part of the data set it belongs to, e.g. ``train``, ``rl``, ``val``, ``test``.
        explanation: reference explanation, "" where the data set has none.
        sentence_labels: for each sentence of the explanation, the emotions it conveys (names of the space), or
            None where nobody labelled it. Empty where no sentence is labelled.
        sentence_probs: for each sentence what a teacher finds likely, in the order of the space's names, or None. Empty
            where no sentence has probabilities.
        subtitle: what is said in the clip, "" if unknown.
        fold: cross-validation fold, None if the data set has none.
        source: the video or speaker that the clip comes from, as far as the data set says, else "". Clips of one source
            go into one split where clips are held out, and are drawn together when intervals are computed.
        audio: path of a separate sound file, "" where the clip holds its own sound or has none.
        weight: how often an epoch of training draws it, above 0.
        record: where this sample was read, e.g. ``train.jsonl:12``; named in every error about it.
    """

    id: str
    dataset: str
    clip: str
    question: str
    label_space: str
    label: str
    split: str
    explanation: str = ""
    sentence_labels: tuple[tuple[str, ...] | None, ...] = ()
    sentence_probs: tuple[tuple[float, ...] | None, ...] = ()
    subtitle: str = ""
    fold: int | None = None
    source: str = ""
    audio: str = ""
    weight: float = 1.0
    record: str = ""

    @property
    def space(self) -> LabelSpace:
        """The label space itself."""
        return get_label_space(self.label_space)

    def to_json(self) -> dict[str, Any]:
        """The sample as plain JSON types; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sample:
        """Builds a sample from `to_json`'s output."""
        of_sentences = {
            key: tuple(None if one is None else tuple(one) for one in row.get(key, ()))
            for key in ("sentence_labels", "sentence_probs")
        }
        return cls(**{**row, **of_sentences})


@dataclass(frozen=True)
class Published:
    """What a data set's authors report of one part of it.

    Attributes:
        clips: how many there are.
        per_label: how many of each label; empty where nobody reported them.
    """

    clips: int
    per_label: Mapping[str, int] = field(default_factory=dict)


class ClipSource(ABC):
    """A data set: where its samples come from. One subclass per data set, one file each in `data/readers/`."""

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to do
        """Makes the data ready on this machine (once per node, before any process reads)."""

    @abstractmethod
    def samples(self, split: str) -> list[Sample]:
        """All samples of a split, in a fixed order. Raises ValueError for a split the source does not have."""

    def media(self, sample: Sample) -> tuple[str | bytes, str | bytes]:
        """What to decode for a sample of this source: its clip and its separate sound, as paths or as content."""
        return sample.clip, sample.audio

    def blocks(self, split: str) -> list[int] | None:
        """How many samples of a split, in their order, lie together each time, where fetching them apart costs more."""
        return None

    def published(self, splits: Sequence[str]) -> Published | None:
        """What its authors report of these splits together, e.g. ``("train", "val")``; None where nothing is known."""
        return None
