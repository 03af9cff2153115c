"""MAFW: clips in the wild with eleven emotions in five folds, from split lists, a workbook of labels, or both."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, Row, collect, first_existing, known_label
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import MAFW

LABELS = {str(index): name for index, name in enumerate(MAFW.names, start=1)}  # the ids of the workbook
SPLIT_FILE = "Train & Test Set/single/no_caption/set_{fold}/{part}.txt"
WORKBOOK = "Labels/single-set.xlsx"
CLIP_COLUMN, LABEL_COLUMN = 0, 12  # of the workbook
CLIPS = ("clips", "data/clips")

FOLDS = 5
FOLD_5_TEST = (278, 127, 125, 248, 227, 294, 214, 47, 183, 52, 36)
FOLD_5_TRAIN = 7341


class Mafw(AnnotatedClips):
    """The clips with one label: splits ``train``, ``val`` (held out of ``train``) and ``test`` of one fold.

    The lists say which clips a split has, in lines such as ``00025.mp4 anger``. A line without a label takes its own
    from ``Labels/single-set.xlsx``; where both have one, they must agree. The compound set is not read: a clip with
    several emotions has no single true label, which rewards and metrics need.

    Args:
        root: folder that holds ``Train & Test Set/`` and the clips in ``clips/`` or ``data/clips/``.
        fold: which of the five folds is tested; R1-Omni and ERV report fold 5.
        question: what the policy is asked.
        holdout: share of the training clips that make the split ``val``.
    """

    def __init__(self, root: str, fold: int = 5, question: str = QUESTION, holdout: float = 0.05) -> None:
        if not 1 <= fold <= FOLDS:
            raise ValueError(f"MAFW has no fold {fold}, only 1 to {FOLDS}: set data.source.init_args.fold")
        super().__init__(root, question, holdout)
        self.fold = fold

    def _read(self, part: str) -> list[Sample]:
        name = SPLIT_FILE.format(part=part, fold=self.fold)
        path = first_existing(self.root, [name], f"list of {part} clips")
        clips, workbook = ClipFolder(self.root, CLIPS), _workbook_rows(self.root / WORKBOOK)

        def make(place: str, cells: dict[str, str]) -> Sample:
            return Sample(
                id=Path(cells["clip"]).stem,
                dataset="mafw",
                clip=clips.find(cells["clip"]),
                question=self.question,
                label_space="mafw",
                label=_label(cells["label"], workbook.get(Path(cells["clip"]).stem)),
                split=part,
                fold=self.fold,
                record=place,
            )

        return collect(_lines(path), make)

    def _published(self, part: str) -> Published | None:
        if self.fold != 5:
            return None
        if part == "train":
            return Published(FOLD_5_TRAIN)
        return Published(sum(FOLD_5_TEST), dict(zip(MAFW.names, FOLD_5_TEST, strict=True)))


def _lines(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from error
    split = [(number, line.split(maxsplit=1)) for number, line in enumerate(lines, start=1) if line.strip()]
    return [(f"{path}:{number}", {"clip": words[0], "label": " ".join(words[1:]).strip()}) for number, words in split]


def _workbook_rows(path: Path) -> dict[str, tuple[str, str]]:
    """Where each clip of the workbook stands, and the id it has there; nothing where there is no workbook."""
    if not path.is_file():
        return {}
    import openpyxl  # here: no other data set needs it

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no workbook that can be read ({error}): fetch it again") from error
    try:
        rows: list[tuple[Any, ...]] = list(book.worksheets[0].iter_rows(values_only=True))
    finally:
        book.close()
    return {
        Path(str(row[CLIP_COLUMN])).stem: (f"{path}:{number}", str(row[LABEL_COLUMN]).removesuffix(".0").strip())
        for number, row in enumerate(rows, start=1)
        if number > 1 and len(row) > LABEL_COLUMN and row[CLIP_COLUMN] is not None
    }


def _label(listed: str, in_workbook: tuple[str, str] | None) -> str:
    """The label of the list, of the workbook, or of both. Raises ValueError where they have none or differ."""
    if in_workbook is None:
        if not listed:
            raise ValueError(f"no label here and none in {WORKBOOK}: add it to the line")
        return known_label(MAFW, listed)
    place, number = in_workbook
    if number not in LABELS:
        raise ValueError(f"label {number!r} at {place} is none of MAFW's 1 to 11")
    if listed and known_label(MAFW, listed) != LABELS[number]:
        raise ValueError(f"label {listed!r}, but {number} ({LABELS[number]}) at {place}: correct one of them")
    return LABELS[number]
