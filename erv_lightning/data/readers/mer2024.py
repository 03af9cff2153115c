"""MER2024: all labelled clips of MER2023 in one table, the same six emotions."""

from __future__ import annotations

from typing import ClassVar

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.mer2023 import CLIPS, discrete_samples
from erv_lightning.data.sample import QUESTION, Published, Sample


class Mer2024(AnnotatedClips):
    """Reads ``label-disdim.csv`` (name, discrete) and the clips of ``video-labeled/``. All of them are for training.

    Args:
        root: folder of the data set.
        question: what the policy is asked.
        holdout: share of the clips that are the split ``val`` instead.
    """

    parts: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, root: str, question: str = QUESTION, holdout: float = 0.05) -> None:
        super().__init__(root, question, holdout)

    def _read(self, part: str) -> list[Sample]:
        return discrete_samples(self, "mer2024", self.root / "label-disdim.csv", ("video-labeled", *CLIPS), part)

    def _published(self, part: str) -> Published | None:
        return Published(5030)
