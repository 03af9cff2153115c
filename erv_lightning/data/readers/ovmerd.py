"""OV-MERD of MER2025: emotions in open vocabulary, and a description of each clip in a file of its own."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, collect, csv_rows, first_known
from erv_lightning.data.readers.mer2023 import CLIPS, subtitles
from erv_lightning.data.sample import QUESTION, Sample
from erv_lightning.labels import get_label_space

log = logging.getLogger(__name__)

WORDS, REASONS = "track2_train_ovmerd.csv", "track3_train_ovmerd.csv"


class OvMerd(AnnotatedClips):
    """Reads ``track2_train_ovmerd.csv`` (name, openset) and ``track3_train_ovmerd.csv`` (name, reason).

    A clip's label is the first of its words that the label space knows. Clips with no such word are left out; how many
    is said once in the log.

    Args:
        root: folder of MER2025.
        track: ``track2`` takes every clip with a label, described or not, ``track3`` only those with a description.
        label_space: the emotions to look for.
        question: what the policy is asked.
        holdout: share of the clips that are the split ``val`` instead.
    """

    parts: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self,
        root: str,
        track: Literal["track2", "track3"] = "track2",
        label_space: str = "mer2023",
        question: str = QUESTION,
        holdout: float = 0.05,
    ) -> None:
        super().__init__(root, question, holdout)
        if track not in ("track2", "track3"):
            raise ValueError(f"OvMerd has no track {track!r}: set data.source.init_args.track to track2 or track3")
        self.track, self.space = track, get_label_space(label_space)
        self._told = False  # how many clips are left out

    def _read(self, part: str) -> list[Sample]:
        clips, spoken, reasons = ClipFolder(self.root, CLIPS), subtitles(self.root), self._reasons()
        unknown: list[str] = []

        def make(place: str, cells: dict[str, str]) -> Sample | None:
            name, label = cells["name"], first_known(self.space, cells["openset"])
            if self.track == "track3" and not reasons.get(name):
                return None
            if not label:
                unknown.append(name)
                return None
            return Sample(
                id=name,
                dataset="ovmerd",
                clip=clips.find(name),
                question=self.question,
                label_space=self.space.name,
                label=label,
                split=part,
                explanation=reasons.get(name, ""),
                subtitle=spoken.get(name, ""),
                record=place,
            )

        samples = collect(csv_rows(self.root / WORDS, ("name", "openset")), make)
        if unknown and not self._told:
            self._told = True
            log.warning(
                f"{self.root / WORDS}: left out {len(unknown)} clips with no word of the label space "
                f"{self.space.name!r}, e.g. {unknown[0]}"
            )
        return samples

    def _reasons(self) -> dict[str, str]:
        """Descriptions by clip; those of track 2 may be missing."""
        path = self.root / REASONS
        if self.track == "track2" and not path.is_file():
            return {}
        return {cells["name"]: cells["reason"] for _, cells in csv_rows(path, ("name", "reason"))}
