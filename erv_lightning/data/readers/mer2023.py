"""MER2023: clips of Chinese series and films, six emotions. Also what the later sets built on it have in common."""

from __future__ import annotations

from pathlib import Path

from erv_lightning.data.readers.annotated import AnnotatedClips
from erv_lightning.data.readers.files import ClipFolder, collect, csv_rows, first_existing, known_label
from erv_lightning.data.sample import QUESTION, Published, Sample
from erv_lightning.labels import MER2023

CLIPS = ("video", "videos", "clips", ".")
# As the challenges' releases and their baselines' code name them.
SUBTITLES = ("transcription.csv", "label-transcription.csv", "subtitle_chieng.csv", "transcription-engchi-polish.csv")
LANGUAGES = ("english", "sentence", "chinese")  # columns, the first with a text is taken
# The challenge's paper; together they are MER2024's 5,030.
COUNTS = {"train": 3373, "test1": 411, "test2": 412, "test3": 834}


class Mer2023(AnnotatedClips):
    """Reads ``{part}-label.csv`` (name, discrete) and the clips of ``{part}/`` or of one folder for all.

    Args:
        root: folder of the data set, with ``train-label.csv``.
        test: which of the three test sets is the split ``test``: ``test1`` (multi), ``test2`` (noise) or
            ``test3`` (semi).
        question: what the policy is asked.
        holdout: share of the training clips that are the split ``val`` instead.
    """

    def __init__(self, root: str, test: str = "test1", question: str = QUESTION, holdout: float = 0.05) -> None:
        super().__init__(root, question, holdout)
        if test not in COUNTS or test == "train":
            raise ValueError(
                f"Mer2023 has no test set {test!r}: set data.source.init_args.test to test1, test2 or test3"
            )
        self.test = test

    def _read(self, part: str) -> list[Sample]:
        name = self.test if part == "test" else part
        table = first_existing(self.root, (f"{name}-label.csv", f"test-labels/{name}-label.csv"), f"labels of {name}")
        return discrete_samples(self, "mer2023", table, (name, *CLIPS), part)

    def _published(self, part: str) -> Published | None:
        return Published(COUNTS[self.test if part == "test" else part])


def discrete_samples(
    source: AnnotatedClips, dataset: str, table: Path, folders: tuple[str, ...], part: str
) -> list[Sample]:
    """A sample of each row (name, discrete) of a label file; valence is not read.

    Args:
        source: whose root and question they get.
        dataset: its name.
        table: the label file.
        folders: where the clips may be, see `ClipFolder`.
        part: the samples' split.
    """
    clips, spoken = ClipFolder(source.root, folders), subtitles(source.root)

    def make(place: str, cells: dict[str, str]) -> Sample:
        name = cells["name"]
        return Sample(
            id=name,
            dataset=dataset,
            clip=clips.find(name),
            question=source.question,
            label_space=MER2023.name,
            label=known_label(MER2023, cells["discrete"]),
            split=part,
            subtitle=spoken.get(name, ""),
            record=place,
        )

    return collect(csv_rows(table, ("name", "discrete")), make)


def subtitles(root: Path) -> dict[str, str]:
    """What is said in each clip, by its name, in English where the file has it; empty where there is no file.

    Raises:
        ValueError: a file without a column of text.
    """
    path = next((root / name for name in SUBTITLES if (root / name).is_file()), None)
    if path is None:
        return {}
    found: dict[str, str] = {}
    for _, cells in csv_rows(path, ("name",)):
        texts = [cells[column] for column in LANGUAGES if column in cells]
        if not texts:
            raise ValueError(
                f"{str(path)!r} has no column {' or '.join(LANGUAGES)}: name the one with the subtitles so"
            )
        found[cells["name"]] = next((text for text in texts if text), "")
    return found
