"""EMER: clips of MER2023 with an explanation of the emotion each; the cold start of R1-Omni and ERV."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, collect, csv_rows, first_existing, first_known
from erv_lightning.data.readers.mer2023 import subtitles
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import EMER

log = logging.getLogger(__name__)

V1, V2 = ("gt-eng.csv", "dataset-v1/gt-eng.csv"), ("final-EMER-reason.csv", "dataset-v2/final-EMER-reason.csv")
R1_OMNI = Published(331, {"angry": 115, "happy": 91, "anxiety": 59, "sad": 43, "surprise": 23})


class Emer(AnnotatedClips):
    """Reads version 1, ``gt-eng.csv`` (names, emotions, subtitles, reasons), or 2, ``final-EMER-reason.csv``.

    Version 2 (name or names, chinese, english) has no labels: `labels` names the table with them, and version 2 is read
    where it is given. A row without a label of the space is an error unless `skip_unlabelled`.

    Args:
        root: folder of the annotations and the clips.
        labels: for version 2, the labels of MER2023 (``train-label.csv``) or MER2024 (``label-disdim.csv``), columns
            name and discrete; relative to root, or a path.
        skip_unlabelled: leave clips without a label out; how many is said once in the log.
        question: what the policy is asked.
        holdout: share of the clips that are the split ``val`` instead.
    """

    parts: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self,
        root: str,
        labels: str = "",
        skip_unlabelled: bool = False,
        question: str = QUESTION,
        holdout: float = 0.05,
    ) -> None:
        super().__init__(root, question, holdout)
        self.labels, self.skip_unlabelled = labels, skip_unlabelled
        self._told = False  # how many clips are left out

    def _read(self, part: str) -> list[Sample]:
        labels = self._labels()
        table = first_existing(self.root, V2 if self.labels else V1, "annotations of EMER")
        clips = ClipFolder(self.root, ("video", "videos", "clips", "train", "video-labeled", "."))
        spoken = subtitles(self.root)
        skipped: list[str] = []

        def make(place: str, cells: dict[str, str]) -> Sample | None:
            name = cells.get("name") or cells["names"]
            told = labels.get(name, "") if self.labels else cells["emotions"]
            label = first_known(EMER, told)
            if not label and self.skip_unlabelled:
                skipped.append(name)
                return None
            if not label:
                where = f" in {self.labels}" if self.labels else ""
                raise ValueError(
                    f"{name!r} has no label{where} that the label space {EMER.name!r} knows, but {told!r}: correct "
                    "it, or set skip_unlabelled"
                )
            reason = cells["english" if self.labels else "reasons"]
            if not reason:
                raise ValueError(f"{name!r} has no explanation")
            return Sample(
                id=name,
                dataset="emer",
                clip=clips.find(name),
                question=self.question,
                label_space=EMER.name,
                label=label,
                split=part,
                explanation=reason,
                subtitle=cells.get("subtitles") or spoken.get(name, ""),
                record=place,
            )

        columns = ("english",) if self.labels else ("emotions", "subtitles", "reasons")
        samples = collect(csv_rows(table, columns), make)
        if skipped and not self._told:
            self._told = True
            log.warning(f"{table}: left out {len(skipped)} clips without a label, e.g. {skipped[0]}")
        return samples

    def _labels(self) -> dict[str, str]:
        """The emotion of each clip by its name, from `labels`; empty for version 1, whose rows have their own."""
        if not self.labels:
            if any((self.root / name).is_file() for name in V2) and not any((self.root / v1).is_file() for v1 in V1):
                raise ValueError(
                    f"{V2[0]} in {str(self.root)!r} has no labels: set data.source.init_args.labels to MER2023's "
                    "train-label.csv"
                )
            return {}
        inside = self.root / self.labels
        path = inside if inside.is_file() else Path(self.labels)
        if not path.is_file():
            raise ValueError(
                f"no file {self.labels!r} in {str(self.root)!r} nor as a path: set data.source.init_args.labels to "
                "MER2023's train-label.csv"
            )
        return {cells["name"]: cells["discrete"] for _, cells in csv_rows(path, ("name", "discrete"))}

    def _published(self, part: str) -> Published | None:
        return R1_OMNI if self.labels else Published(100)
