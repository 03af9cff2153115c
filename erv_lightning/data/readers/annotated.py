"""What published data sets have in common: parts, folds, and validation clips set apart from the training clips."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from erv_lightning.data.sample import QUESTION, ClipSource, Published, Sample


class AnnotatedClips(ClipSource):
    """A data set whose annotation files distinguish `parts`. Without a ``val`` part, training clips make one.

    Args:
        root: folder of the data set, as published.
        question: what the policy is asked.
        holdout: share of the training clips that are the split ``val`` instead, where the data set has none of its own.
            Which ones depends on their ids alone, so that every run holds out the same. 0 trains on all.
    """

    parts: ClassVar[tuple[str, ...]] = ("train", "test")

    def __init__(self, root: str, question: str = QUESTION, holdout: float = 0.05) -> None:
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout is {holdout}, it must be at least 0 and below 1")
        self.root, self.question, self.holdout = Path(root), question, holdout

    @abstractmethod
    def _read(self, part: str) -> list[Sample]:
        """All samples of a part, each with `split` set to it."""

    def samples(self, split: str) -> list[Sample]:
        """Samples of one of `parts`, or of ``val``."""
        splits = (*self.parts, "val") if self._holds_out else self.parts
        if split not in splits:
            raise ValueError(f"{type(self).__name__} has no split {split!r}, only {', '.join(splits)}")
        if not self._holds_out or split not in ("train", "val"):
            return self._read(split)
        samples = self._read("train")
        held = self._held_out(samples)
        if split == "val" and not held:
            raise ValueError(
                f"{type(self).__name__} holds out no clips for validation: set data.source.init_args.holdout above 0, "
                "or data.val_split: test, or trainer.limit_val_batches: 0"
            )
        return [
            replace(sample, split=split) if split == "val" else sample
            for sample in samples
            if (sample.id in held) == (split == "val")
        ]

    def published(self, splits: Sequence[str]) -> Published | None:
        """What the authors report of a part; training clips count with those held out of them."""
        parts = {"train" if split == "val" and self._holds_out else split for split in splits}
        if len(parts) != 1:
            return None
        part = parts.pop()
        whole = not (part == "train" and self._holds_out and self.holdout) or set(splits) == {"train", "val"}
        return self._published(part) if whole else None

    def _published(self, part: str) -> Published | None:
        """What the authors report of a part; None where nothing is known."""
        return None

    @property
    def _holds_out(self) -> bool:
        """Whether ``val`` is made of training clips."""
        return "train" in self.parts and "val" not in self.parts

    def _held_out(self, samples: Sequence[Sample]) -> set[str]:
        """Ids of the validation clips: the same share of every label, or whole sources where the data names them."""
        strata: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for sample in samples:
            strata["" if sample.source else sample.label][sample.source or sample.id].append(sample.id)
        held: set[str] = set()
        for groups in strata.values():
            wanted, taken = round(self.holdout * sum(map(len, groups.values()))), 0
            for _, ids in sorted(groups.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()):
                if taken >= wanted:
                    break
                held.update(ids)
                taken += len(ids)
        return held
