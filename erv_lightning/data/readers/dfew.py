"""DFEW: clips of films with seven emotions in five folds, as videos or as folders of frames."""

from __future__ import annotations

from pathlib import Path

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, collect, csv_rows, first_existing
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import DFEW

LABELS = {str(index): name for index, name in enumerate(DFEW.names, start=1)}  # the ids of the annotation files
SPLIT_FILES = ("label/single_{part}set_{fold}.csv", "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv")
CLIPS = ("clip", "videos", "Clip/jpg_256", "Clip/clip_224x224")  # videos before frames, which have no sound

TEST_CLIPS = (2341, 2341, 2340, 2339, 2336)
FOLD_5_TEST = (489, 378, 533, 434, 293, 29, 180)
FOLD_5_TRAIN = 9361


class Dfew(AnnotatedClips):
    """The single-labelled clips: splits ``train``, ``val`` (held out of ``train``) and ``test`` of one fold.

    Args:
        root: folder that holds ``label/`` or ``EmoLabel_DataSplit/``, and the clips in ``clip/``, ``videos/``,
            ``Clip/jpg_256/`` or ``Clip/clip_224x224/``, the last two one folder of frames a clip.
        fold: which of the five folds is tested; R1-Omni and ERV report fold 5.
        question: what the policy is asked.
        holdout: share of the training clips that make the split ``val``.
    """

    def __init__(self, root: str, fold: int = 5, question: str = QUESTION, holdout: float = 0.05) -> None:
        if not 1 <= fold <= len(TEST_CLIPS):
            raise ValueError(f"DFEW has no fold {fold}, only 1 to 5: set data.source.init_args.fold")
        super().__init__(root, question, holdout)
        self.fold = fold

    def _read(self, part: str) -> list[Sample]:
        names = [name.format(part=part, fold=self.fold) for name in SPLIT_FILES]
        path = first_existing(self.root, names, f"list of {part} clips")
        clips = ClipFolder(self.root, CLIPS)

        def make(place: str, cells: dict[str, str]) -> Sample:
            number = _number(cells["video_name"])
            if cells["label"] not in LABELS:
                raise ValueError(f"label {cells['label']!r} is none of DFEW's 1 to 7")
            return Sample(
                id=str(number),
                dataset="dfew",
                clip=_find(clips, number),
                question=self.question,
                label_space="dfew",
                label=LABELS[cells["label"]],
                split=part,
                fold=self.fold,
                record=place,
            )

        return collect(csv_rows(path, ("video_name", "label")), make)

    def _published(self, part: str) -> Published | None:
        if part == "test":
            per_label = dict(zip(DFEW.names, FOLD_5_TEST, strict=True)) if self.fold == 5 else {}
            return Published(TEST_CLIPS[self.fold - 1], per_label)
        return Published(FOLD_5_TRAIN) if self.fold == 5 else None


def _number(name: str) -> int:
    """The number of a clip that the annotation calls 1, 00001 or 1.mp4."""
    stem = Path(name).stem
    if not stem.isdecimal():
        raise ValueError(f"video_name {name!r} is no clip number, such as 1, 00001 or 1.mp4")
    return int(stem)


def _find(clips: ClipFolder, number: int) -> str:
    """The clip of that number, which is padded with zeros in some layouts."""
    padded = clips.find(f"{number:05d}")
    return padded if Path(padded).exists() else clips.find(f"{number}.mp4")
